"""Owns the loaded engines: loads once for many waiters, leases, keeps alive, evicts, unloads.

What there is, and what is next, is decided in `entries`; here it is done, by timers and tasks. All state is changed between awaits on one event loop, so nothing needs a lock. Three rules keep it sound:

1. A request is a user of its entry from arrival to end, waiting or served. Nothing is handed over, so a
   client that vanishes at any moment leaks nothing.
2. Loads and unloads are the moves of one worker, one after another: vLLM measures the free memory of the
   device while it loads and fails if another process gives memory back meanwhile.
3. An entry leaves `entries` the moment it is to go. A request that comes later makes a new entry, and the
   worker closes what is doomed before it loads what is queued.

An entry is queued, then loading, then ready, then gone; it is gone at once if nobody waits for it any more
before it loads, or if the load fails. What is to be kept loaded gets a new entry after a death or a failed
load, which rests for its back-off before it is queued; requests may wait for it meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias

from app.core.context import ANYBODY, Caller
from app.core.errors import Draining, EngineDied, LoadFailed, Overloaded
from app.core.model import Model
from app.core.tasks import supervise
from app.engine.base import Engine
from app.runtime import policy
from app.runtime.entries import Close, Drop, Entries, Evict, Load
from app.runtime.entry import Entry, Lease, LoadedModel, State, close_engines
from app.runtime.loader import Loader
from app.runtime.observer import NullObserver, Observer, UnloadReason
from app.runtime.recovery import Down, Recovery, Trouble

_log = logging.getLogger(__name__)

_Move: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Manager:
    """Loads engines on demand and unloads them when they are not wanted (ollama-api 17).

    `start` loads the engine of a model; whatever it raises reaches the waiters as `LoadFailed`, and it is
    cancelled when it takes longer than `load_timeout_s` (`inf`: no limit). `max_loaded` 0 is no limit. At
    most `max_queue` requests wait for a load, and always one; as many wait for each engine that is busy.
    Requests for a loaded engine wait for its `Turns` (`max_queue_tokens` bounds their prompts), for no other
    model. Where callers are `keyed`, some places of an engine are for keys that have none, and a keep-alive
    or an unload is that of one model: an engine that several share stays for the longest of theirs.

    An engine that dies is loaded again at once, and after a failure with the back-off of `recovery`;
    `on_crash_loop` is told the reason when that is hopeless.
    """

    def __init__(
        self,
        start: Callable[[Model], Awaitable[Engine]],
        *,
        keep_alive_s: float,
        max_loaded: int,
        load_timeout_s: float,
        max_queue: int,
        max_queue_tokens: int = 0,
        keyed: bool = False,
        default_context: int = 4096,
        observer: Observer | None = None,
        recovery: Recovery | None = None,
        on_crash_loop: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries = Entries(
            keep_alive_s=keep_alive_s,
            max_loaded=max_loaded,
            max_queue=max_queue,
            max_queue_tokens=max_queue_tokens,
            keyed=keyed,
            default_context=default_context,
        )
        self._loader = Loader(start, load_timeout_s)
        self.default_context = default_context
        self._observer = observer or NullObserver()
        self._clock = clock
        self._recovery = recovery or Recovery(clock=clock)
        self._hopeless = on_crash_loop or _log.error
        self._worker: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Requests that wait for a load."""
        return self._entries.waiting

    @property
    def in_use(self) -> int:
        """Requests that hold an engine or wait for one."""
        return self._entries.users

    @property
    def down(self) -> list[Down]:
        """The models that cannot answer: a first load or the load after a death is not done."""
        return self._recovery.down

    @property
    def started(self) -> bool:
        """Whether everything that was to be loaded at start has been."""
        return self._recovery.started

    def ready(self, model: Model) -> bool:
        """Whether a request for the model would be served without a load."""
        entry = self._entries.of(model)
        return entry is not None and entry.state is State.READY

    def loaded(self) -> list[LoadedModel]:
        """What is loaded, the one that stays longest first."""
        return self._entries.rows(self._clock(), datetime.now(UTC))

    def engines(self) -> list[tuple[Model, Engine]]:
        """What is loaded, each with the model that caused the load. May be read from any thread."""
        return [(entry.model, engine) for entry, engine in self._entries.loaded()]

    def queued(self) -> list[tuple[Model, float]]:
        """The requests that wait for each engine, here and in it. May be read from any thread."""
        return [
            (entry.model, engine.metrics()["waiting"] + entry.turns.waiting)
            for entry, engine in self._entries.loaded()
        ]

    @asynccontextmanager
    async def lease(
        self, model: Model, *, keep_alive_s: float | None, num_ctx: int | None, caller: Caller = ANYBODY
    ) -> AsyncGenerator[Lease, None]:
        """Use the model's engine, loaded first where necessary. `keep_alive_s` None keeps its setting.

        Raises:
            LoadFailed: with the engine's text.
            Overloaded: too many requests wait already, or (`Draining`) the server is to end or ends.
        """
        began = self._clock()
        entry = self._join(model, keep_alive_s, num_ctx, caller)
        try:
            engine = await self._engine_of(entry)
            load_ns = max(1, int((self._clock() - began) * 1e9))
            yield Lease(engine, load_ns, self._entries.context_length(engine, num_ctx), entry.turns)
        except EngineDied as error:
            if self._closed:
                raise Draining from error
            raise
        finally:
            self._leave(entry)

    def preload(self, model: Model) -> None:
        """Load the model although no request asks for it; waits for nothing."""
        if not self._closed and self._entries.of(model) is None:
            self._recovery.expect(model)
            self._keep(self._entries.preloaded(model), 0.0)

    def unload(self, model: Model) -> None:
        """Unload the model's engine as soon as nothing uses it or has a claim to it; waits for nothing."""
        if (entry := self._entries.of(model)) is None:
            return
        is_last = self._entries.release(entry, model)
        if entry.state is State.READY:
            self._check_idle(entry)  # Another model's claim may end sooner than the one given up.
        elif is_last and entry.state in (State.BACKING_OFF, State.QUEUED) and not entry.users:
            self._drop(entry)

    async def wait_idle(self) -> None:
        """Return once no request holds an engine or waits for one."""
        await self._idle.wait()

    async def close(self) -> None:
        """Unload everything at once and refuse what comes; requests under way fail in their engines."""
        self._closed = True
        for entry in self._entries.within(State.BACKING_OFF, State.QUEUED):
            self._entries.discard(entry, Draining())
        self._loader.stop()
        while True:
            for entry in self._entries.within(State.READY):
                self._retire(entry, "shutdown")
            self._pump()
            if self._worker is None:
                return
            await asyncio.wait({self._worker})

    # One request: join, wait, leave.

    def _join(self, model: Model, keep_alive_s: float | None, num_ctx: int | None, caller: Caller) -> Entry:
        if self._closed:
            raise Draining()
        entry = self._entries.join(model, keep_alive_s, num_ctx, caller)
        self._idle.clear()
        self._pump()
        return entry

    async def _engine_of(self, entry: Entry) -> Engine:
        if not entry.settled.is_set():
            self._entries.waiting += 1
            try:
                await entry.settled.wait()
            finally:
                self._entries.waiting -= 1
        return entry.outcome()

    def _leave(self, entry: Entry) -> None:
        self._entries.leave(entry)
        if not self._entries.users:
            self._idle.set()
        if entry.users:
            return
        if entry.state is State.QUEUED and not entry.kept:
            self._drop(entry)
        elif entry.state is State.READY:
            self._begin_idle(entry)
        self._pump()

    # One entry: idle time, and the two ways to go.

    def _begin_idle(self, entry: Entry) -> None:
        entry.idle_since = self._clock()
        self._check_idle(entry)

    def _check_idle(self, entry: Entry) -> None:
        """Unload an entry whose idle time is over; else look again when it should be."""
        entry.stop_timer()
        loaded, now = entry.snapshot(), self._clock()
        if policy.expired(loaded, now):
            self._retire(entry, entry.leaves)
            self._pump()
        elif (delay_s := policy.next_look_s(loaded, now)) is not None:
            entry.timer = asyncio.get_running_loop().call_later(delay_s, self._check_idle, entry)

    def _retire(self, entry: Entry, reason: UnloadReason) -> None:
        """Take a ready entry away; the worker closes its engine."""
        if entry.watcher is not None:
            entry.watcher.cancel()
        self._entries.retire(entry)
        self._observer.unloaded(entry.model, reason)

    def _drop(self, entry: Entry) -> None:
        """Take an entry away before it is loaded: nobody wants it."""
        self._recovery.forget(entry.model)
        self._entries.discard(entry, LoadFailed("nobody waits for it"))

    async def _watch(self, entry: Entry, engine: Engine) -> None:
        await engine.wait_dead()
        if entry.state is not State.READY:
            return
        _log.error("the engine of %s died", entry.model.name)
        entry.watcher = None  # It is this task.
        self._observer.died(entry.model)
        self._retire(entry, "died")
        self._recover(entry, "restarting", "its engine keeps dying")
        self._pump()

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
            self._keep(Entry(entry.model, entry.keep_alive_s, entry.num_ctx, dict(entry.claims)), delay_s)

    def _keep(self, entry: Entry, delay_s: float) -> None:
        self._entries.keep(entry)
        if delay_s:
            entry.timer = asyncio.get_running_loop().call_later(delay_s, self._enqueue, entry)
        else:
            self._enqueue(entry)

    def _enqueue(self, entry: Entry) -> None:
        entry.timer = None
        self._entries.enqueue(entry)
        self._pump()

    # The worker: one move at a time.

    def _pump(self) -> None:
        """Set the worker going if there is a move to make. Called after every change that may allow one."""
        if self._worker is None and (move := self._next_move()) is not None:
            self._worker = supervise(
                "engine moves", partial(self._work, move), restart_s=None, on_death=self._hopeless
            )

    async def _work(self, move: _Move | None) -> None:
        try:
            while move is not None:
                await move()
                move = self._next_move()
        finally:
            self._worker = None

    def _next_move(self) -> _Move | None:
        """What the worker is to do next."""
        while (step := self._entries.next_step()) is not None:
            match step:
                case Load(entry):
                    return partial(self._load, entry)
                case Close(doomed):
                    return partial(close_engines, doomed)
                case Drop(entry):
                    self._drop(entry)
                case Evict(victims):
                    for entry in victims:
                        self._retire(entry, "evicted")
        return None

    async def _load(self, entry: Entry) -> None:
        begun = self._clock()
        if again := self._recovery.is_again(entry.model):
            self._observer.restarting(entry.model)
        try:
            engine = await self._loader.load(entry.model)
        except (LoadFailed, Draining) as error:
            self._not_loaded(entry, error)
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
        self._entries.discard(entry, error)
        if entry.kept and isinstance(error, LoadFailed):
            self._recover(entry, "failed to load", str(error))

    def _now_loaded(self, entry: Entry, engine: Engine) -> None:
        entry.watcher = supervise("engine end", partial(self._watch, entry, engine))
        self._entries.ready(entry, engine)
        self._recovery.loaded(entry.model)
        if not entry.users:
            self._begin_idle(entry)
