"""The choices about loaded engines."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from app.runtime.policy import (
    Loaded,
    admits,
    deadline,
    expired,
    expires_at,
    failures_in_a_row,
    restart_delay_s,
)

NOON = datetime(2025, 1, 1, 12, tzinfo=UTC)


def idle(key: str, *, keep_alive_s: float = 300, since: float = 0) -> Loaded:
    return Loaded(key, 0, keep_alive_s, since)


def busy(key: str, *, keep_alive_s: float = 300, since: float | None = 0) -> Loaded:
    return Loaded(key, 1, keep_alive_s, since)


@pytest.mark.parametrize(
    ("loaded", "when"),
    [
        (idle("a", keep_alive_s=10, since=5), 15),
        (idle("a", keep_alive_s=1.5, since=5), 6.5),
        (idle("a", keep_alive_s=0, since=5), 5),
        (idle("a", keep_alive_s=math.inf, since=5), math.inf),
        (busy("a", keep_alive_s=0, since=5), math.inf),
        (busy("a", keep_alive_s=0, since=None), math.inf),
    ],
)
@pytest.mark.point(104, 106)
def test_the_idle_timer_counts_from_the_last_idle_moment_and_only_then(loaded: Loaded, when: float) -> None:
    assert deadline(loaded) == when


def test_expired_from_the_deadline_on() -> None:
    loaded = idle("a", keep_alive_s=10, since=5)
    assert [expired(loaded, now) for now in (14.999, 15.0, 99.0)] == [False, True, True]


@pytest.mark.parametrize(
    ("loaded", "seconds"),
    [
        (idle("a", keep_alive_s=10, since=95), 5),
        (busy("a", keep_alive_s=10, since=None), 10),
        (busy("a", keep_alive_s=10, since=80), -10),
    ],
)
@pytest.mark.point(104)
def test_expires_at_is_a_time_of_day(loaded: Loaded, seconds: float) -> None:
    assert expires_at(loaded, 100.0, NOON) == NOON + timedelta(seconds=seconds)


@pytest.mark.point(103, 107)
@pytest.mark.parametrize("keep_alive_s", [math.inf, 1e300])
def test_for_ever_is_292_years(keep_alive_s: float) -> None:
    assert expires_at(idle("a", keep_alive_s=keep_alive_s), 0, NOON).year == 2317


@pytest.mark.parametrize(
    ("users", "slots", "max_queue", "expected"),
    [
        (0, 1, 0, True),
        (1, 1, 0, False),
        (1, 1, 1, True),
        (2, 1, 1, False),
        (9, 8, 2, True),
        (10, 8, 2, False),
        (10_000, 0, 0, True),
    ],
)
def test_an_engine_has_its_slots_and_a_queue(users: int, slots: int, max_queue: int, expected: bool) -> None:
    assert admits(users, slots, 99, max_queue) is expected


@pytest.mark.parametrize(
    ("loading", "max_queue", "expected"), [(0, 0, True), (1, 0, False), (1, 2, True), (2, 2, False)]
)
def test_loads_have_one_queue_that_takes_one_at_least(loading: int, max_queue: int, expected: bool) -> None:
    assert admits(99, None, loading, max_queue) is expected


def test_failures_count_in_a_row_until_an_engine_ran_for_the_window() -> None:
    assert [failures_in_a_row(before, 0, 300) for before in (0, 1, 4)] == [1, 2, 5]
    assert failures_in_a_row(4, 299, 300) == 5
    assert failures_in_a_row(4, 300, 300) == 1


def test_restarts_come_at_once_then_ever_later_then_no_more() -> None:
    delays = [restart_delay_s(failures, 9, 0.5) for failures in range(1, 10)]
    assert delays == [0, 1, 2, 4, 8, 16, 32, 60, None]
    assert restart_delay_s(10_000, 0, 0.5) == 60
    assert (restart_delay_s(3, 0, 0.0), restart_delay_s(3, 0, 1.0)) == (1, 3)
