"""The manager, with books beside its own: who holds which entry, and how long each engine is to be kept."""

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import app.runtime.manager
from app.core.context import ANYBODY, Caller
from app.core.errors import Overloaded
from app.core.model import Model, ModelName
from app.engine.base import Engine
from app.runtime.entries import Entries
from app.runtime.entry import Entry, Lease, State
from app.runtime.manager import Manager
from app.runtime.observer import UnloadReason
from app.runtime.queue import Turns
from app.runtime.steps import Load, Step
from tests.replay.engines import Fleet, ReplayEngine
from tests.replay.journal import Journal
from tests.replay.plan import Plan

_SLACK_S = 0.0011
"""A timer of the manager is no shorter than a millisecond."""


class Holding:
    """What is expected of one entry."""

    def __init__(self, claims: dict[ModelName | None, float]) -> None:
        self.claims = claims
        self.users: list[str] = []
        self.idle_since: float | None = None

    @property
    def keep_alive_s(self) -> float:
        return max(self.claims.values())

    def ends_s(self) -> float:
        """When its engine is to go."""
        if self.users or self.idle_since is None:
            return math.inf
        return self.idle_since + self.keep_alive_s


class Books:
    """The manager's observer, with an account of each entry that is not the manager's own."""

    def __init__(self, plan: Plan, fleet: Fleet, journal: Journal, clock: Callable[[], float]) -> None:
        self._plan = plan
        self._fleet = fleet
        self._journal = journal
        self._clock = clock
        self._of: dict[Entry, Holding] = {}
        self._last: dict[str, Holding] = {}
        self.current: dict[str, tuple[Entry, Holding]] = {}
        self.leases: dict[str, ReplayEngine] = {}

    def of(self, entry: Entry) -> Holding:
        """The account of an entry, opened when it is first seen."""
        if entry not in self._of:
            self._of[entry] = Holding({})
            self.current[entry.key] = entry, self._of[entry]
        return self._of[entry]

    def joined(self, entry: Entry, model: Model, name: str, keep_alive_s: float | None) -> None:
        holding = self.of(entry)
        holding.users.append(name)
        whose = model.name if self._plan.keyed else None
        if keep_alive_s is None:
            keep_alive_s = holding.claims.get(whose, self._plan.keep_alive_s)
        holding.claims[whose] = keep_alive_s

    def is_full(self, model: Model, waiting: int) -> bool:
        """Whether no more requests for the model need be let in."""
        entry, holding = self.current.get(model.engine_key, (None, None))
        if entry is None or holding is None or entry.state is not State.READY:
            return waiting >= max(1, self._plan.max_queue)
        return bool(self._plan.slots) and len(holding.users) >= self._plan.slots + self._plan.max_queue

    def refused(self, name: str, *, full: bool) -> None:
        self._journal.expect(full, f"{name} is refused with room in the queue")

    def left(self, entry: Entry, name: str) -> None:
        holding = self.of(entry)
        holding.users.remove(name)
        if not holding.users and entry.state is State.READY:
            holding.idle_since = self._clock()

    def kept(self, entry: Entry) -> None:
        """An entry that is loaded without being asked for: the preloaded one, or after a death."""
        before = self._last.pop(entry.key, None)
        whose = entry.model.name if self._plan.keyed else None
        claims = {whose: self._plan.keep_alive_s} if before is None else dict(before.claims)
        self.of(entry).claims = claims
        self._journal.expect(
            before is None or before.keep_alive_s > 0, f"{entry.key} is loaded again although it was to go"
        )

    def released(self, model: Model) -> None:
        if model.engine_key not in self.current:
            return
        _, holding = self.current[model.engine_key]
        whose = model.name if self._plan.keyed else None
        if any(keep_alive_s > 0 for other, keep_alive_s in holding.claims.items() if other != whose):
            holding.claims.pop(whose, None)
        else:
            holding.claims[whose] = 0.0

    def starts(self, entry: Entry) -> None:
        holding = self.of(entry)
        self._journal.expect(bool(holding.users) or entry.kept, f"{entry.key} is loaded for nobody")
        same = [engine.name for engine in self._fleet.alive if engine.key == entry.key]
        self._journal.expect(not same, f"{entry.key} is loaded beside {same}")

    def ready(self, entry: Entry) -> None:
        holding = self.of(entry)
        if not holding.users:
            holding.idle_since = self._clock()

    def loaded(self, model: Model, seconds: float) -> None: ...

    def load_failed(self, model: Model) -> None:
        self._last[model.engine_key] = self.current.pop(model.engine_key)[1]

    def unloaded(self, model: Model, reason: UnloadReason) -> None:
        key = model.engine_key
        self._journal.note(f"{key} goes: {reason}")
        entry, holding = self.current.pop(key)
        self._last[key] = holding
        engine = entry.engine
        if reason in ("idle", "asked"):
            self._journal.expect(holding.ends_s() <= self._clock(), f"{key} goes before its time ({reason})")
        elif reason == "evicted":
            self._check_evicted(key, holding)
        elif reason == "died":
            self._journal.expect(isinstance(engine, ReplayEngine) and engine.dead, f"{key} has not died")
        else:
            self._journal.expect(self._fleet.ending, f"{key} is shut down")

    def slept(self, model: Model, reason: UnloadReason) -> None: ...

    def woken(self, model: Model, seconds: float) -> None: ...

    def not_woken(self, model: Model) -> None: ...

    def died(self, model: Model) -> None: ...

    def restarting(self, model: Model) -> None: ...

    def restarted(self, model: Model) -> None: ...

    def check_rest(self, room: bool) -> None:
        """What holds whenever nothing can happen but time passing; `room`: nothing is being moved."""
        now, most = self._clock(), self._plan.slots + self._plan.max_queue
        idle = False
        for key, (entry, holding) in self.current.items():
            if entry.state is State.READY:
                idle = idle or not holding.users
                self._journal.expect(holding.ends_s() + _SLACK_S >= now, f"{key} is kept beyond its time")
                self._journal.expect(
                    not self._plan.slots or len(holding.users) <= most, f"{key} has more waiting than may"
                )
        free = not self._plan.max_loaded or len(self._fleet.alive) < self._plan.max_loaded or idle
        for key, (entry, holding) in self.current.items():
            if room and free and holding.users and entry.state is State.QUEUED:
                self._journal.fault(f"{holding.users} wait for {key}, and nothing is done about it")

    def _check_evicted(self, key: str, holding: Holding) -> None:
        others = [
            each for entry, each in self.current.values() if entry.state is State.READY and not each.users
        ]
        wanted = [each for entry, each in self.current.values() if entry.state is State.QUEUED and each.users]
        self._journal.expect(not holding.users, f"{key} is evicted in use")
        self._journal.expect(bool(wanted), f"{key} is evicted for nobody")
        self._journal.expect(
            len(self._fleet.alive) >= self._plan.max_loaded > 0, f"{key} is evicted with room"
        )
        mine = holding.keep_alive_s, holding.idle_since or 0.0
        best = min(((each.keep_alive_s, each.idle_since or 0.0) for each in others), default=mine)
        self._journal.expect(mine <= best, f"{key} is evicted out of order")


class BookedEntries(Entries):
    """The manager's state, which tells `books` of what its observer does not hear of."""

    def __init__(self, books: Books, current: Callable[[], str], **options: Any) -> None:
        super().__init__(**options)
        self._books = books
        self._current = current

    def join(self, model: Model, keep_alive_s: float | None, num_ctx: int | None, caller: Caller) -> Entry:
        full = self._books.is_full(model, self.waiting)
        try:
            entry = super().join(model, keep_alive_s, num_ctx, caller)
        except Overloaded:
            self._books.refused(self._current(), full=full)
            raise
        self._books.joined(entry, model, self._current(), keep_alive_s)
        return entry

    def leave(self, entry: Entry) -> None:
        self._books.left(entry, self._current())
        super().leave(entry)

    def release(self, entry: Entry, model: Model) -> bool:
        self._books.released(model)
        return super().release(entry, model)

    def keep(self, entry: Entry) -> None:
        self._books.kept(entry)
        super().keep(entry)

    def ready(self, entry: Entry, engine: Engine) -> None:
        self._books.ready(entry)
        super().ready(entry, engine)

    def next_step(self, now: float = 0.0) -> Step | None:
        step = super().next_step(now)
        if isinstance(step, Load):
            self._books.starts(step.entry)
        return step


class BookedManager(Manager):
    """A manager that tells `books` who holds which engine."""

    def __init__(self, books: Books, current: Callable[[], str], *args: Any, **options: Any) -> None:
        super().__init__(*args, observer=books, **options)
        self._books = books
        self._current = current

    @asynccontextmanager
    async def lease(
        self, model: Model, *, keep_alive_s: float | None, num_ctx: int | None, caller: Caller = ANYBODY
    ) -> AsyncGenerator[Lease, None]:
        name = self._current()
        async with super().lease(model, keep_alive_s=keep_alive_s, num_ctx=num_ctx, caller=caller) as lease:
            engine = lease.engine
            assert isinstance(engine, ReplayEngine)
            self._books.leases[name] = engine
            engine.holders.add(name)
            assert isinstance(lease.turns, Turns)
            engine.turns = lease.turns
            try:
                yield lease
            finally:
                engine.holders.discard(name)


def booked(books: Books, current: Callable[[], str]) -> AbstractContextManager[Any]:
    """Have managers that are made meanwhile keep `books`."""
    return patch.object(app.runtime.manager, "Entries", partial(BookedEntries, books, current))
