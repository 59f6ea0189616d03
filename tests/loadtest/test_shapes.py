"""How many users there are at each moment."""

from itertools import groupby

import pytest

from loadtest.shapes import SHAPES

pytestmark = pytest.mark.row("C7")


def users(shape: str, most: int, steps: int) -> list[tuple[int, int]]:
    """The users over 1,000 moments, and for how many of them."""
    found = [SHAPES[shape](moment / 1000, most, steps) for moment in range(1000)]
    return [(count, len(list(group))) for count, group in groupby(found)]


def test_stairs() -> None:
    assert users("step", 32, 4) == [(8, 250), (16, 250), (24, 250), (32, 250)]
    assert users("step", 3, 2) == [(2, 500), (3, 500)]


def test_a_ramp_rises_to_the_top_and_never_falls() -> None:
    counts = [count for count, _ in users("ramp", 10, 1)]
    assert counts == list(range(1, 11))


def test_a_spike_comes_and_goes() -> None:
    assert users("spike", 20, 4) == [(5, 400), (20, 200), (5, 400)]


def test_a_soak_is_level() -> None:
    assert users("soak", 7, 4) == [(7, 1000)]


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
def test_never_more_than_asked_and_never_nobody(shape: str, most: int) -> None:
    counts = {count for count, _ in users(shape, most, 5)}
    assert min(counts) >= 1
    assert max(counts) == most
