"""What several turns of one request come to."""

import pytest

from app.core.events import Done, Timings
from app.runtime.toolturn import Sums


@pytest.mark.parametrize(("first", "second", "expected"), [(3, 4, 7), (0, 4, 4), (None, None, None)])
def test_tokens_of_the_reasoning_are_those_of_all_turns(
    first: int | None, second: int | None, expected: int | None
) -> None:
    sums = Sums()
    last = Done("stop", 1, 1, 10, 5, Timings(1, 1), reasoning_tokens=second)
    for done in (Done("stop", 1, 1, 10, 5, Timings(1, 1), reasoning_tokens=first), last):
        sums.add(done)
    assert sums.put_into(last).reasoning_tokens == expected
    assert last.output_tokens == 10
