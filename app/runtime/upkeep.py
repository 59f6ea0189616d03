"""Loads, watches and unloads engines: does what `entries` decides, by timers and tasks."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

from app.core.errors import Draining, LoadFailed, Overloaded
from app.core.model import Model
from app.core.tasks import supervise
from app.engine.base import Engine
from app.runtime import policy
from app.runtime.entries import Close, Drop, Entries, Evict, Leave, Load, Refuse
from app.runtime.entry import Entry, State, close_engines
from app.runtime.loader import Loader
from app.runtime.observer import Observer, UnloadReason
from app.runtime.recovery import Recovery, Trouble

_log = logging.getLogger(__name__)

_Move: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Upkeep:
    """One for each `Manager`, which sees to the requests; `on_crash_loop` is told why there is no hope."""

    def __init__(
        self,
        entries: Entries,
        loader: Loader,
        recovery: Recovery,
        observer: Observer,
        on_crash_loop: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._entries = entries
        self._loader = loader
        self._recovery = recovery
        self._observer = observer
        self._hopeless = on_crash_loop
        self._clock = clock
        self._worker: asyncio.Task[None] | None = None
        self._look: asyncio.TimerHandle | None = None
        self._closed = False

    async def close(self) -> None:
        """Unload everything at once, and load nothing more."""
        self._closed = True
        for entry in self._entries.within(State.BACKING_OFF, State.QUEUED):
            self._entries.discard(entry, Draining())
        self._loader.stop()
        while True:
            for entry in self._entries.within(State.READY, State.LEAVING):
                self._retire(entry, "shutdown")
            self.pump()
            if self._worker is None:
                return
            await asyncio.wait({self._worker})

    # One entry: idle time, and the two ways to go.

    def begin_idle(self, entry: Entry) -> None:
        """The last request of a ready entry has ended."""
        entry.idle_since = self._clock()
        self.check_idle(entry)

    def check_idle(self, entry: Entry) -> None:
        """Unload an entry whose idle time is over; else look again when it should be."""
        entry.stop_timer()
        loaded, now = entry.snapshot(), self._clock()
        if policy.expired(loaded, now):
            self._retire(entry, entry.leaves)
            self.pump()
        elif (delay_s := policy.next_look_s(loaded, now)) is not None:
            entry.timer = asyncio.get_running_loop().call_later(delay_s, self.check_idle, entry)

    def outgrow(self, entry: Entry, model: Model) -> None:
        """Have a ready entry's engine loaded anew, as `model` needs it, once those who use it have ended."""
        _log.info("%s needs the engine of %s loaded anew", model.name, entry.model.name)
        self._let_go(entry, "reloaded")
        self.keep(Entry(entry.model, entry.keep_alive_s, entry.num_ctx, dict(entry.claims)), 0.0)
        if not entry.users:
            self.left(entry)

    def left(self, entry: Entry) -> None:
        """The last request of a leaving entry has ended."""
        self._retire(entry, entry.leaves)
        self.pump()

    def _let_go(self, entry: Entry, reason: UnloadReason) -> None:
        entry.leaves = reason
        self._entries.let_go(entry)

    def _retire(self, entry: Entry, reason: UnloadReason) -> None:
        """Take a ready or leaving entry away; the worker closes its engine."""
        if entry.watcher is not None:
            entry.watcher.cancel()
        self._entries.retire(entry)
        self._observer.unloaded(entry.model, reason)

    def drop(self, entry: Entry) -> None:
        """Take an entry away before it is loaded: nobody wants it."""
        self._recovery.forget(entry.model)
        self._entries.discard(entry, LoadFailed("nobody waits for it"))

    async def _watch(self, entry: Entry, engine: Engine) -> None:
        await engine.wait_dead()
        if entry.state not in (State.READY, State.LEAVING):
            return
        was_leaving = entry.state is State.LEAVING
        _log.error("the engine of %s died", entry.model.name)
        entry.watcher = None  # It is this task.
        self._observer.died(entry.model)
        self._retire(entry, "died")
        if not was_leaving:
            self._recover(entry, "restarting", "its engine keeps dying")
        self.pump()

    # Models that stay loaded: after a death, or at start.

    def _recover(self, entry: Entry, trouble: Trouble, reason: str) -> None:
        """Load again what has just gone, in time."""
        delay_s = self._recovery.failed(entry.model, trouble)
        if delay_s is None:
            self._hopeless(f"gave up on {entry.model.name}: {reason}")
        elif entry.keep_alive_s <= 0 or self._closed:
            self._recovery.forget(entry.model)
        else:
            _log.info("loading %s again in %.1f s", entry.model.name, delay_s)
            self.keep(Entry(entry.model, entry.keep_alive_s, entry.num_ctx, dict(entry.claims)), delay_s)

    def keep(self, entry: Entry, delay_s: float) -> None:
        """Load an entry in time, whether or not a request asks for it."""
        self._entries.keep(entry)
        if delay_s:
            entry.timer = asyncio.get_running_loop().call_later(delay_s, self._enqueue, entry)
        else:
            self._enqueue(entry)

    def _enqueue(self, entry: Entry) -> None:
        entry.timer = None
        self._entries.enqueue(entry)
        self.pump()

    # The worker: one move at a time.

    def pump(self) -> None:
        """Set the worker going if there is a move to make. Called after every change that may allow one."""
        if self._worker is not None:
            return
        if (move := self._next_move()) is not None:
            self._worker = supervise(
                "engine moves", partial(self._work, move), restart_s=None, on_death=self._hopeless
            )
        self._look_again()

    def _look_again(self) -> None:
        """Be back when a blocked entry has waited for long enough."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if (delay_s := self._entries.next_look_s(self._clock())) is not None and not self._closed:
            self._look = asyncio.get_running_loop().call_later(delay_s, self.pump)

    async def _work(self, move: _Move | None) -> None:
        try:
            while move is not None:
                await move()
                move = self._next_move()
        finally:
            self._worker = None
            self._look_again()

    def _next_move(self) -> _Move | None:
        """What the worker is to do next."""
        while (step := self._entries.next_step(self._clock())) is not None:
            match step:
                case Load(entry):
                    return partial(self._load, entry)
                case Close(doomed):
                    return partial(self._close, doomed)
                case Drop(entry):
                    self.drop(entry)
                case Evict(victims):
                    for entry in victims:
                        self._retire(entry, "evicted")
                case Leave(in_use):
                    for entry in in_use:
                        _log.info("%s is to be unloaded: another model waits", entry.model.name)
                        self._let_go(entry, "evicted")
                case Refuse(entry, reason):
                    self._not_loaded(entry, LoadFailed(f"model {entry.model.name} is too large: {reason}"))
        return None

    async def _close(self, doomed: list[Entry]) -> None:
        ledger = self._entries.ledger
        awaited = ledger.awaited(entry.model for entry in doomed)
        await close_engines(doomed)
        for entry in doomed:
            ledger.gone(entry.model)
        await ledger.settle(awaited)

    async def _load(self, entry: Entry) -> None:
        begun = self._clock()
        if again := self._recovery.is_again(entry.model):
            self._observer.restarting(entry.model)
        try:
            engine = await self._loader.load(entry.model)
        except (LoadFailed, Draining) as error:
            owed = self._entries.ledger.owed(entry.model)
            self._not_loaded(entry, error)
            await self._entries.ledger.settle(owed)
        except asyncio.CancelledError:
            self._not_loaded(entry, LoadFailed("cancelled"))
            raise
        else:
            self._observer.loaded(entry.model, self._clock() - begun)
            if again:
                self._observer.restarted(entry.model)
            self._now_loaded(entry, engine)

    def _not_loaded(self, entry: Entry, error: LoadFailed | Overloaded) -> None:
        _log.error("could not load %s: %s", entry.model.name, error)
        self._observer.load_failed(entry.model)
        self._entries.ledger.gone(entry.model)
        self._entries.discard(entry, error)
        if entry.kept and isinstance(error, LoadFailed):
            self._recover(entry, "failed to load", str(error))

    def _now_loaded(self, entry: Entry, engine: Engine) -> None:
        entry.watcher = supervise("engine end", partial(self._watch, entry, engine))
        self._entries.ready(entry, engine)
        self._entries.ledger.loaded(entry.model, engine.memory_bytes)
        self._recovery.loaded(entry.model)
        if not entry.users:
            self.begin_idle(entry)
