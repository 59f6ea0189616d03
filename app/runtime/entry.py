"""One engine in the manager's books, from the first wish for it until it goes."""

import asyncio
from dataclasses import dataclass, field
from enum import Enum, auto

from app.core.errors import LoadFailed, Overloaded
from app.core.model import Model
from app.engine.base import Engine
from app.runtime import policy
from app.runtime.observer import UnloadReason


class State(Enum):
    QUEUED = auto()
    LOADING = auto()
    READY = auto()
    GONE = auto()


@dataclass(slots=True, eq=False)
class Entry:
    """`settled`: `engine` or `error` is known. `leaves` is why it will have gone if it is idle too long."""

    model: Model
    keep_alive_s: float
    num_ctx: int | None = None
    users: int = 0
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
