"""One engine in the manager's books, from the first wish for it until it goes; and what others see of it."""

import asyncio
import logging
import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from functools import partial

from app.core.errors import LoadFailed, Overloaded
from app.core.model import Model, ModelName
from app.engine.base import Engine
from app.runtime import policy
from app.runtime.observer import UnloadReason
from app.runtime.queue import Places, Turns

_log = logging.getLogger("caravan")


@dataclass(frozen=True, slots=True)
class Lease:
    """An engine in use. `load_ns` is how long this request waited for it, at least 1.

    Whoever lets the engine generate has a turn of `turns` first.
    """

    engine: Engine
    load_ns: int
    context_length: int
    turns: Places


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A row of `/api/ps`: `model` is the one that caused the load, `context_length` the last asked for."""

    model: Model
    memory_bytes: int
    vram_bytes: int
    context_length: int
    expires_at: datetime


class State(Enum):
    """`BACKING_OFF`: the last load failed or its engine died, and the next attempt is not due yet.
    `LEAVING`: its engine answers those that it has, takes nobody more and is closed then. `DOZING`: its
    engine is to be put to sleep, and `ASLEEP`: it sleeps; the next request for it has another entry.
    """

    BACKING_OFF = auto()
    QUEUED = auto()
    LOADING = auto()
    READY = auto()
    LEAVING = auto()
    DOZING = auto()
    ASLEEP = auto()
    GONE = auto()


@dataclass(slots=True, eq=False)
class Entry:
    """`settled`: `engine` or `error` is known. `leaves` is why it will have gone if it is idle too long.

    `kept` entries are loaded even if no request waits for them, and again after a failure. `claims` are the
    keep-alives by the model that they were asked for, or that of all under None; the longest holds.
    `blocked_since` is when it was first found that it has to wait for engines in use.
    """

    model: Model
    keep_alive_s: float
    num_ctx: int | None = None
    claims: dict[ModelName | None, float] = field(default_factory=dict[ModelName | None, float])
    users: int = 0
    kept: bool = False
    state: State = State.QUEUED
    engine: Engine | None = None
    error: LoadFailed | Overloaded = field(default_factory=LoadFailed)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    idle_since: float | None = None
    blocked_since: float | None = None
    leaves: UnloadReason = "idle"
    turns: Turns = field(default_factory=partial(Turns, 0))
    timer: asyncio.TimerHandle | None = None
    watcher: asyncio.Task[None] | None = None

    @property
    def key(self) -> str:
        return self.model.engine_key

    @property
    def stays(self) -> bool:
        """Whether no client and no other model unloads it."""
        return self.model.nodes > 1

    @property
    def slots(self) -> int | None:
        """How many requests its engine works on at once; None while it has none."""
        return None if self.engine is None else self.engine.slots

    def outcome(self) -> Engine:
        """What came of its load."""
        if self.engine is None:
            # One exception per waiter: an instance raised in many tasks would gather all their tracebacks.
            raise copy(self.error) from self.error.__cause__
        return self.engine

    def serves(self, model: Model) -> bool:
        """Whether its engine can answer for the model as it is."""
        try:
            return self.engine is not None and self.engine.takes(model.adapter)
        except LoadFailed:
            return False

    def claim(self, name: ModelName | None, keep_alive_s: float | None, default_s: float = 0.0) -> None:
        """Set the keep-alive of one model, or of all (None); without `keep_alive_s` it stays what it was.

        An engine that spans nodes is kept for ever: its ranks on others cannot be loaded again from here.
        """
        if keep_alive_s is None:
            keep_alive_s = self.claims.get(name, default_s)
        self.claims[name] = math.inf if self.stays else keep_alive_s
        self.keep_alive_s = max(self.claims.values())

    def release(self, name: ModelName | None) -> bool:
        """Give up a claim; whether nothing else keeps the engine."""
        if self.stays:
            return False
        if any(keep_alive_s > 0 for other, keep_alive_s in self.claims.items() if other != name):
            self.claims.pop(name, None)
            self.keep_alive_s = max(self.claims.values())
            return False
        self.claim(name, 0)
        return True

    def row(self, engine: Engine, context_length: int, now: float, wall: datetime) -> LoadedModel:
        """What `/api/ps` tells of it."""
        expires_at = policy.expires_at(self.snapshot(), now, wall)
        return LoadedModel(self.model, engine.memory_bytes, engine.vram_bytes, context_length, expires_at)

    def snapshot(self) -> policy.Loaded:
        return policy.Loaded(self.key, self.users, self.keep_alive_s, self.idle_since, self.stays)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


async def close_engines(doomed: Sequence[Entry]) -> None:
    """Close the engines of entries that have gone, and end the tasks that watched them."""
    watchers = [entry.watcher for entry in doomed if entry.watcher is not None]
    for entry in doomed:
        entry.watcher = None  # An ended task's frame holds the entry: a circle around the engine.
    engines = [entry.engine for entry in doomed if entry.engine is not None]
    closings = (engine.close() for engine in engines)
    for error in await asyncio.gather(*closings, *watchers, return_exceptions=True):
        if isinstance(error, Exception):
            _log.error("an engine did not close cleanly", exc_info=error)
    _log.info("unloaded %s", ", ".join(str(entry.model.name) for entry in doomed))
