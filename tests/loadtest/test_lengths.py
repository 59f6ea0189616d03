"""Lengths are those of the trace that they are named after (row C7)."""

import random
from itertools import pairwise

import pytest

from loadtest.lengths import CODE, CONVERSATION, SHARES, Distribution, Lengths, distributions

pytestmark = pytest.mark.row("C7")


@pytest.mark.parametrize("pair", [CONVERSATION, CODE])
def test_a_sample_has_the_quantiles_of_the_trace(pair: tuple[Distribution, Distribution]) -> None:
    dice = random.Random(1)
    for distribution in pair:
        drawn = sorted(distribution.at(dice.random()) for _ in range(20_000))
        for share, tokens in zip(SHARES[2:-2], distribution.quantiles[2:-2], strict=True):
            below = sum(each < tokens for each in drawn) / len(drawn)
            at_most = sum(each <= tokens for each in drawn) / len(drawn)
            assert below - 0.015 <= share <= at_most + 0.015, (share, tokens)


def test_the_medians_that_the_paper_names() -> None:
    assert [each.at(0.5) for each in CONVERSATION] == [1020, 129]
    assert CODE[1].at(0.5) == 13


def test_lengths_never_fall_with_the_share() -> None:
    for distribution in (*CONVERSATION, *CODE):
        drawn = [distribution.at(step / 1000) for step in range(1001)]
        assert all(low <= high for low, high in pairwise(drawn))
        assert drawn[0] == distribution.quantiles[0]
        assert drawn[-1] == distribution.quantiles[-1]


def test_scale_and_limits() -> None:
    lengths = Lengths(*distributions("azure-conversation"), scale=0.1, most_prompt=150, most_answer=20)
    drawn = [lengths.draw(random.Random(seed)) for seed in range(500)]
    assert max(prompt for prompt, _ in drawn) == 150
    assert max(answer for _, answer in drawn) == 20
    assert min(prompt for prompt, _ in drawn) >= 1
    assert 90 <= sorted(prompt for prompt, _ in drawn)[250] <= 112


def test_lengths_that_are_always_the_same() -> None:
    lengths = Lengths(*distributions("100/20"))
    assert {lengths.draw(random.Random(seed)) for seed in range(50)} == {(100, 20)}


@pytest.mark.parametrize("name", ["", "sharegpt", "0/5", "5/0", "5", "a/b", "-1/4"])
def test_lengths_that_do_not_exist(name: str) -> None:
    with pytest.raises(ValueError, match="lengths are azure-conversation"):
        distributions(name)


def test_quantiles_that_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fall"):
        Distribution((1, 2, 3, 4, 5, 4, 7, 8, 9, 10, 11))
