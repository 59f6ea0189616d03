"""Choices about loaded engines: pure functions of a snapshot and a clock value."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

LONGEST_KEEP_ALIVE_S = (2**63 - 1) / 1e9
"""What "forever" looks like to a client: the most nanoseconds an int64 holds, about 292 years."""

# A timer may ring a little early by the manager's own clock, and loops bound how far ahead one may be set.
_SHORTEST_TIMER_S = 0.001
_LONGEST_TIMER_S = 86400.0

_CLASS = 1 << 40
"""Between the engine's numbers of two priorities there is room for this many turns."""

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a choice needs to know of one loaded engine.

    `users` counts the requests that hold it. `idle_since` is the clock value at which the last one
    ended, None while none ever has. One that `stays` goes for no other.
    """

    key: str
    users: int
    keep_alive_s: float
    idle_since: float | None
    stays: bool = False


def deadline(loaded: Loaded) -> float:
    """The clock value at which an engine left alone is unloaded: its idle timer. Infinite while in use."""
    if loaded.users or loaded.idle_since is None:
        return math.inf
    return loaded.idle_since + loaded.keep_alive_s


def expired(loaded: Loaded, now: float) -> bool:
    """Whether its idle time is over."""
    return deadline(loaded) <= now


def next_look_s(loaded: Loaded, now: float) -> float | None:
    """After how long to see again whether its idle time is over; None if nothing sets an end to it."""
    left_s = deadline(loaded) - now
    return min(max(left_s, _SHORTEST_TIMER_S), _LONGEST_TIMER_S) if math.isfinite(left_s) else None


def expires_at(loaded: Loaded, now: float, wall: datetime) -> datetime:
    """When `/api/ps` says the engine goes (docs/reference 10.3); `wall` is the time of day at `now`.

    It counts from the last idle moment also while requests run, so it may have passed; an engine that was
    never idle counts from now.
    """
    since = now if loaded.idle_since is None else loaded.idle_since
    return wall + timedelta(seconds=min(since + loaded.keep_alive_s - now, LONGEST_KEEP_ALIVE_S))


def admits(users: int, slots: int | None, loading: int, max_queue: int) -> bool:
    """Whether an engine takes one more request: `slots` of them run (0: any number) and `max_queue` wait.

    `users` are those it has. `slots` None means that it is not loaded: then at most `max_queue` requests, and
    always one, wait for loads of any engine, and `loading` do already.
    """
    if slots is None:
        return loading < max(1, max_queue)
    return not slots or users < slots + max_queue


class FlowKey(NamedTuple):
    """Whose requests are served in order among themselves: a key and the priority that it has."""

    priority: int
    key_id: str


@dataclass(frozen=True, slots=True)
class Flow:
    """A key that has requests waiting: the number of the next one's turn, and when that one came."""

    key: FlowKey
    number: int
    since: int


def turn_number(last: int | None, floor: int) -> int:
    """The number of a key's next turn, where its last one had `last` (None: it had none).

    Numbers of one key rise, so that two keys with many requests take turns. A key that asks again after a
    while is not owed the turns that it left out, so it begins at `floor`: the number of the earliest turn
    without any output yet. That is before what the others have waiting, in the engine too.
    """
    return floor if last is None else max(floor, last + 1)


def spare_places(slots: int) -> int:
    """How many places of an engine are for keys that have none, so that they need not wait for one."""
    return min(slots // 8, 4)


def may_begin(running: int, own: int, slots: int, spare: int) -> bool:
    """Whether a key with `own` of the `running` requests gets a place now (`slots` 0: any number)."""
    return not slots or running < slots - (spare if own else 0)


def may_be_read(silent: int, slots: int, *, contended: bool) -> bool:
    """Whether the engine is given one more prompt of a key that has `silent` ones there without any output.

    An engine reads the prompts that it has in one step, which nobody can interrupt: where other keys ask as
    well, one key's prompts are given to it a few at a time.
    """
    return not slots or not contended or silent < max(1, slots // 8)


def next_flow(flows: Iterable[Flow]) -> FlowKey:
    """Whose turn it is: the best priority, then the lowest number, then the longest wait."""
    return min(flows, key=lambda flow: (flow.key.priority, flow.number, flow.since)).key


def engine_priority(priority: int, number: int) -> int:
    """One number of the engine's, in which the turn orders what has the same priority."""
    return priority * _CLASS + number


def displaced(waiting: Mapping[FlowKey, int], newcomer: FlowKey) -> FlowKey | None:
    """Who must give up a place in a full queue to the newcomer: the key with the most requests in it, if it
    has at least two more than the newcomer's and no better priority."""
    able = (flow for flow in waiting if flow.priority >= newcomer.priority)
    most = max(able, key=waiting.__getitem__, default=None)
    if most is None or waiting[most] < waiting.get(newcomer, 0) + 2:
        return None
    return most


def failures_in_a_row(before: int, ran_s: float, window_s: float) -> int:
    """Failures of an engine up to and with this one; running for `window_s` makes up for all before it.

    What counts is how long it ran, not how often it failed a minute: a big model that takes minutes to load
    and dies at once is in a crash loop too.
    """
    return 1 if ran_s >= window_s else before + 1


def restart_delay_s(failures: int, limit: int, chance: float) -> float | None:
    """How long to wait before a load after this many failures in a row; None gives up (`limit` 0: never).

    The first attempt is at once; then the time doubles from a second to a minute, each time between half
    and one and a half of it as `chance` (0 to 1) has it, so that replicas do not load in step.
    """
    if limit and failures >= limit:
        return None
    if failures <= 1:
        return 0.0
    return min(_FIRST_DELAY_S * 2 ** min(failures - 2, 30), _LONGEST_DELAY_S) * (0.5 + chance)
