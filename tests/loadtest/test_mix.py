"""The kinds of request and their weights."""

import random
from collections import Counter

import pytest

from loadtest.mix import USUAL, parse_apis, parse_mix

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


def test_users_speak_the_apis_in_their_shares() -> None:
    apis = parse_apis("ollama=2, anthropic=1,openai=1")
    spoken = [apis.of_user(number) for number in range(400)]
    assert set(spoken[:4]) == {"ollama", "anthropic", "openai"}, "few users speak all of them"
    assert Counter(spoken) == {"ollama": 200, "anthropic": 100, "openai": 100}
    assert {parse_apis("responses").of_user(number) for number in range(5)} == {"responses"}


def test_a_user_asks_what_its_api_has() -> None:
    apis, mix = parse_apis("openai,anthropic"), parse_mix(USUAL)
    apis.check(mix)
    assert set(apis.mix_of("openai", mix).weights) == set(mix.weights)
    assert set(apis.mix_of("anthropic", mix).weights) == {"chat", "schema", "tools"}
    for text, asked, said in (
        ("responses,anthropic", "chat,embed", "embed: not in the API of responses, anthropic"),
        ("openai,anthropic", "generate=1", "anthropic has none of generate"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_apis(text).check(parse_mix(asked))


@pytest.mark.parametrize("text", ["", "grpc", "openai,openai", "openai=0", "openai=x"])
def test_what_are_no_apis(text: str) -> None:
    with pytest.raises(ValueError, match=r"mix of APIs|float"):
        parse_apis(text)


@pytest.mark.parametrize("text", ["", "tea=1", "chat=1,chat=2", "chat=-1", "chat=nan", "chat=x", "chat=0"])
def test_what_is_no_mix(text: str) -> None:
    with pytest.raises(ValueError, match=r"mix|weight|float"):
        parse_mix(text)
