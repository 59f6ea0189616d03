"""Loads, watches and unloads engines: does what `entries` decides, by timers and tasks."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from app.core.errors import Draining, LoadFailed, Overloaded
from app.core.model import Model
from app.core.tasks import supervise
from app.engine.base import Engine
from app.runtime import policy
from app.runtime.entries import Entries
from app.runtime.entry import Entry, State, close_engines
from app.runtime.loader import Loader
from app.runtime.moves import Move, Moves
from app.runtime.observer import Observer, UnloadReason
from app.runtime.recovery import Recovery, Trouble
from app.runtime.steps import Close, Drop, Evict, Leave, Load, Refuse, Sleep, Step, Wake

_log = logging.getLogger(__name__)


class Upkeep:
    """One for each `Manager`, which sees to the requests; `on_crash_loop` is told why there is no hope.

    `heir` gives a model that is served and has the engine of another, or None: that one's engine is not
    loaded again.
    """

    def __init__(
        self,
        entries: Entries,
        loader: Loader,
        recovery: Recovery,
        observer: Observer,
        on_crash_loop: Callable[[str], None],
        heir: Callable[[Model], Model | None],
        clock: Callable[[], float],
    ) -> None:
        self._entries = entries
        self._loader = loader
        self._recovery = recovery
        self._observer = observer
        self._hopeless = on_crash_loop
        self._heir = heir
        self._clock = clock
        self._moves = Moves(self.pump, on_crash_loop)
        self._look: asyncio.TimerHandle | None = None
        self._closed = self._pumping = False

    async def close(self) -> None:
        """Unload everything at once, and load nothing more."""
        self._closed = True
        for entry in self._entries.within(State.BACKING_OFF, State.QUEUED):
            self._entries.discard(entry, Draining())
        self._loader.stop()
        while True:
            for entry in self._entries.within(State.READY, State.LEAVING, State.DOZING, State.ASLEEP):
                self._retire(entry, "shutdown")
            self.pump()
            if not self._moves:
                return
            await self._moves.next_end()

    # One entry: idle time, and the ways to go.

    def begin_idle(self, entry: Entry) -> None:
        """The last request of a ready entry has ended."""
        entry.idle_since = self._clock()
        self.check_idle(entry)

    def check_idle(self, entry: Entry) -> None:
        """Unload an entry whose idle time is over; else look again when it should be.

        A client that asks for the memory back, by a keep-alive of 0, gets all of it: the engine is closed.
        """
        entry.stop_timer()
        loaded, now = entry.snapshot(), self._clock()
        if policy.expired(loaded, now):
            go = self._rest if entry.leaves == "idle" and entry.keep_alive_s > 0 else self._retire
            go(entry, entry.leaves)
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
        go = self._rest if entry.leaves == "evicted" else self._retire
        go(entry, entry.leaves)
        self.pump()

    def wake_no_more(self, model: Model) -> None:
        """Close the model's engine if it is asleep."""
        if (entry := self._entries.sleepers.get(model.engine_key)) is not None:
            self._retire(entry, "asked")
            self.pump()

    def _let_go(self, entry: Entry, reason: UnloadReason) -> None:
        entry.leaves = reason
        self._entries.let_go(entry)

    def _retire(self, entry: Entry, reason: UnloadReason) -> None:
        """Take an entry with an engine away; a move closes that."""
        if entry.watcher is not None:
            entry.watcher.cancel()
        self._entries.retire(entry)
        self._observer.unloaded(entry.model, reason)

    def _rest(self, entry: Entry, reason: UnloadReason) -> None:
        """Take an idle entry away; a move puts its engine to sleep, or closes it where that cannot be."""
        going = self._entries.beds(entry)
        if going is None:
            self._retire(entry, reason)
            return
        for each in going:
            self._retire(each, "evicted")
        entry.leaves = reason
        self._entries.lay_down(entry)

    def drop(self, entry: Entry) -> None:
        """Take an entry away before it is loaded: nobody wants it."""
        self._recovery.forget(entry.model)
        self._entries.discard(entry, LoadFailed("nobody waits for it"))

    async def _watch(self, entry: Entry, engine: Engine) -> None:
        await engine.wait_dead()
        if entry.state is State.GONE:
            return
        was_served = entry.state is State.READY
        _log.error("the engine of %s died", entry.model.name)
        entry.watcher = None  # It is this task.
        self._observer.died(entry.model)
        self._retire(entry, "died")
        if was_served:
            self._recover(entry, "restarting", "its engine keeps dying")
        self.pump()

    # Models that stay loaded: after a death, or at start.

    def _recover(self, entry: Entry, trouble: Trouble, reason: str) -> None:
        """Load again what has just gone, in time."""
        delay_s = self._recovery.failed(entry.model, trouble)
        if delay_s is None:
            self._hopeless(f"gave up on {entry.model.name}: {reason}")
        elif entry.keep_alive_s <= 0 or self._closed or (model := self._heir(entry.model)) is None:
            self._recovery.forget(entry.model)
        else:
            _log.info("loading %s again in %.1f s", model.name, delay_s)
            self.keep(Entry(model, entry.keep_alive_s, entry.num_ctx, dict(entry.claims)), delay_s)

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

    # What is to be done next, and the moves.

    def pump(self) -> None:
        """Do what is to be done, and begin the moves that may. Called after changes that may allow one."""
        if self._pumping:  # by what is done here, which is looked at anyway
            return
        self._pumping = True
        try:
            while (step := self._entries.next_step(self._clock())) is not None:
                self._do(step)
        finally:
            self._pumping = False
        self._look_again()

    def _look_again(self) -> None:
        """Be back when a blocked entry has waited for long enough."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if (delay_s := self._entries.next_look_s(self._clock())) is not None and not self._closed:
            self._look = asyncio.get_running_loop().call_later(delay_s, self.pump)

    def _do(self, step: Step) -> None:
        match step:
            case Load() | Wake() | Sleep() | Close():
                self._moves.begin(self._move(step))
            case Drop(entry):
                self.drop(entry)
            case Evict(victims, asleep):
                for entry in victims:
                    go = self._rest if entry.key in asleep else self._retire
                    go(entry, "evicted")
            case Leave(in_use):
                for entry in in_use:
                    _log.info("%s is to be unloaded: another model waits", entry.model.name)
                    self._let_go(entry, "evicted")
            case Refuse(entry, reason):
                self._not_loaded(entry, LoadFailed(reason))

    def _move(self, step: Load | Wake | Sleep | Close) -> Move:
        match step:
            case Load(entry):
                return partial(self._load, entry)
            case Wake(entry, sleeper):
                return partial(self._wake, entry, sleeper)
            case Sleep(entry):
                return partial(self._sleep, entry)
            case Close(doomed):
                return partial(self._close, doomed)

    async def _close(self, doomed: list[Entry]) -> None:
        ledger = self._entries.ledger
        awaited = ledger.awaited(entry.model for entry in doomed)
        try:
            await close_engines(doomed)
            await ledger.settle(awaited)
        finally:
            for entry in doomed:
                ledger.gone(entry.model)

    async def _load(self, entry: Entry) -> None:
        begun, ledger = self._clock(), self._entries.ledger
        if again := self._recovery.is_again(entry.model):
            self._observer.restarting(entry.model)
        try:
            engine = await self._loader.load(entry.model)
        except (LoadFailed, Draining) as error:
            owed = ledger.owed(entry.model)
            self._not_loaded(entry, error)
            await ledger.settle(owed)
            ledger.gone(entry.model)
        except asyncio.CancelledError:
            self._not_loaded(entry, LoadFailed("cancelled"))
            ledger.gone(entry.model)
            raise
        else:
            self._observer.loaded(entry.model, self._clock() - begun)
            if again:
                self._observer.restarted(entry.model)
            self._now_loaded(entry, engine)
            own_bytes = await engine.own_bytes()
            is_fresh = await ledger.look()
            ledger.loaded(
                entry.model,
                own_bytes,
                rank=engine.adapter_rank,
                sleeps=engine.can_sleep,
                is_fresh=is_fresh,
            )

    def _not_loaded(self, entry: Entry, error: LoadFailed | Overloaded) -> None:
        _log.error("could not load %s: %s", entry.model.name, error)
        self._observer.load_failed(entry.model)
        self._entries.discard(entry, error)
        if entry.kept and isinstance(error, LoadFailed):
            self._recover(entry, "failed to load", str(error))

    def _now_loaded(self, entry: Entry, engine: Engine) -> None:
        entry.watcher = supervise("engine end", partial(self._watch, entry, engine))
        self._entries.ready(entry, engine)
        self._recovery.loaded(entry.model)
        if not entry.users:
            self.begin_idle(entry)

    # Asleep.

    async def _sleep(self, entry: Entry) -> None:
        ledger = self._entries.ledger
        assert entry.engine is not None  # one without was never laid down
        try:
            await self._loader.sleep(entry.engine)
        except (LoadFailed, Draining) as error:
            if entry.state is State.DOZING:
                _log.error("%s could not be put to sleep and is closed: %s", entry.model.name, error)
                self._retire(entry, entry.leaves)
            ledger.not_slept(entry.model)
            return
        is_fresh = await ledger.look()
        if self._entries.sleepers.slept(entry):
            self._observer.slept(entry.model, entry.leaves)
            _log.info("%s is asleep", entry.model.name)
        ledger.slept(entry.model, is_fresh=is_fresh)

    async def _wake(self, entry: Entry, sleeper: Entry) -> None:
        begun, ledger, engine = self._clock(), self._entries.ledger, sleeper.engine
        assert engine is not None  # one without was never asleep
        if sleeper.watcher is not None:
            sleeper.watcher.cancel()
        try:
            await self._loader.wake(engine)
        except (LoadFailed, Draining) as error:
            await self._not_woken(entry, sleeper, error)
            return
        for adapter in self._entries.sleepers.forgotten(entry.key):
            engine.forget(adapter)
        self._observer.woken(entry.model, self._clock() - begun)
        self._now_loaded(entry, engine)
        ledger.woken(entry.model, is_fresh=await ledger.look())

    async def _not_woken(self, entry: Entry, sleeper: Entry, error: LoadFailed | Draining) -> None:
        """Close the engine, and load another for those who wait."""
        _log.error("%s could not be woken: %s", entry.model.name, error)
        self._entries.sleepers.forgotten(entry.key)
        ends = self._closed or isinstance(error, Draining)
        if not ends:
            self._observer.not_woken(sleeper.model)
        self._observer.unloaded(sleeper.model, "shutdown" if ends else "died")
        if ends:
            self._entries.discard(entry, Draining())
        else:
            self._entries.requeue(entry)
            if not entry.users:
                self.drop(entry)
        await self._close([sleeper])
