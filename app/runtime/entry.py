"""One engine in the manager's books, from the first wish for it until it goes; and what others see of it."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto

from app.core.errors import LoadFailed, Overloaded
from app.core.model import Model
from app.engine.base import Engine
from app.runtime import policy
from app.runtime.observer import UnloadReason


@dataclass(frozen=True, slots=True)
class Lease:
    """An engine in use. `load_ns` is how long this request waited for it, at least 1."""

    engine: Engine
    load_ns: int
    context_length: int


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A row of `/api/ps`: `model` is the one that caused the load, `context_length` the last asked for."""

    model: Model
    memory_bytes: int
    vram_bytes: int
    context_length: int
    expires_at: datetime


class State(Enum):
    """`RESTING`: the last load failed or its engine died, and the next attempt is not due yet."""

    RESTING = auto()
    QUEUED = auto()
    LOADING = auto()
    READY = auto()
    GONE = auto()


@dataclass(slots=True, eq=False)
class Entry:
    """`settled`: `engine` or `error` is known. `leaves` is why it will have gone if it is idle too long.

    `kept` entries are loaded even if no request waits for them, and again after a failure.
    """

    model: Model
    keep_alive_s: float
    num_ctx: int | None = None
    users: int = 0
    kept: bool = False
    state: State = State.QUEUED
    engine: Engine | None = None
    error: LoadFailed | Overloaded = field(default_factory=LoadFailed)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    idle_since: float | None = None
    leaves: UnloadReason = "idle"
    timer: asyncio.TimerHandle | None = None
    watcher: asyncio.Task[None] | None = None

    @property
    def key(self) -> str:
        return self.model.engine_key

    @property
    def slots(self) -> int | None:
        """How many requests its engine works on at once; None while it has none."""
        return None if self.engine is None else self.engine.slots

    def snapshot(self) -> policy.Loaded:
        return policy.Loaded(self.key, self.users, self.keep_alive_s, self.idle_since)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
