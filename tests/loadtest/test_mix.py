"""The kinds of request and their weights."""

import random
from collections import Counter

import pytest

from loadtest.mix import USUAL, parse_mix

pytestmark = pytest.mark.row("C7")


def test_kinds_are_drawn_by_their_weights() -> None:
    mix, dice = parse_mix("chat=6, generate=3,embed=1"), random.Random(0)
    drawn = Counter(mix.draw(dice) for _ in range(10_000))
    assert {kind: round(count / 1000) for kind, count in drawn.items()} == {
        "chat": 6,
        "generate": 3,
        "embed": 1,
    }


def test_a_weight_of_zero_is_never_drawn() -> None:
    assert set(parse_mix("chat=1,tools=0").weights) == {"chat"}
    assert set(parse_mix(USUAL).without({"embed"}).weights) == {"chat", "generate", "schema", "tools"}


@pytest.mark.parametrize("text", ["", "tea=1", "chat=1,chat=2", "chat=-1", "chat=nan", "chat=x", "chat=0"])
def test_what_is_no_mix(text: str) -> None:
    with pytest.raises(ValueError, match=r"mix|weight|float"):
        parse_mix(text)
