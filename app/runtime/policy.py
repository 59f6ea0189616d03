"""Choices about loaded engines: pure functions of a snapshot and a clock value."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

LONGEST_KEEP_ALIVE_S = (2**63 - 1) / 1e9
"""What "for ever" looks like to a client: the most nanoseconds an int64 holds, about 292 years."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a choice needs to know of one loaded engine.

    `users` counts the requests that hold it. `idle_since` is the clock value at which the last one
    ended, None while none ever has.
    """

    key: str
    users: int
    keep_alive_s: float
    idle_since: float | None


def deadline(loaded: Loaded) -> float:
    """The clock value at which an engine left alone is unloaded: its idle timer. Infinite while in use."""
    if loaded.users or loaded.idle_since is None:
        return math.inf
    return loaded.idle_since + loaded.keep_alive_s


def expired(loaded: Loaded, now: float) -> bool:
    """Whether its idle time is over."""
    return deadline(loaded) <= now


def expires_at(loaded: Loaded, now: float, wall: datetime) -> datetime:
    """When `/api/ps` says the engine goes (ollama-api 10.3); `wall` is the time of day at `now`.

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


def victims(loaded: Iterable[Loaded], max_loaded: int) -> list[str] | None:
    """The idle engines to unload so that one more may be loaded; None if too few are idle now.

    Shortest keep-alive first, then least recently used (ollama-api 17). `max_loaded` 0 is no limit.
    """
    engines = list(loaded)
    excess = len(engines) + 1 - max_loaded if max_loaded else 0
    if excess <= 0:
        return []
    idle = [(each.keep_alive_s, each.idle_since or 0.0, each.key) for each in engines if not each.users]
    if len(idle) < excess:
        return None
    return [key for *_, key in sorted(idle)[:excess]]
