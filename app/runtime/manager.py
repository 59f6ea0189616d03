"""Owns the loaded engines: loads once for many waiters, leases, keeps alive, evicts, unloads.

Here requests come and go; `entries` has the state and decides, and `upkeep` loads and unloads engines. All
state is changed between awaits on one event loop, so nothing needs a lock. Three rules keep it sound:

1. A request is a user of its entry from arrival to end, waiting or served. Nothing is handed over, so a
   client that vanishes at any moment leaks nothing.
2. Loads and unloads are moves, one after another on each device: vLLM measures the free memory of the
   device while it loads and fails if another process gives memory back meanwhile. Moves on devices that
   have none in common go on side by side.
3. An entry leaves `entries` the moment it is to go. A request that comes later makes a new entry, and what
   is doomed is closed before what is queued is loaded.

An entry is queued, then loading, then ready, then gone; it is gone at once if nobody waits for it any more
before it loads, or if the load fails. One leaves that was loaded without room for an adapter that has come
since, or in whose place another has waited for long enough: it goes with its last user. One that is idle for
too long, or goes for another, may be put to sleep in place of that; the next request wakes its engine for a
new entry, and where it does not wake it is closed and loaded anew. What is to be kept
loaded gets a new entry after a death or a failed load, which rests for its back-off before it is queued;
requests may wait for it meanwhile.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from app.core.context import ANYBODY, Caller
from app.core.device import Device
from app.core.errors import Draining, EngineDied, LoadFailed
from app.core.model import Model
from app.engine.base import Engine
from app.runtime.entries import Entries
from app.runtime.entry import Entry, Lease, LoadedModel, State
from app.runtime.ledger import Ledger
from app.runtime.loader import Loader
from app.runtime.observer import NullObserver, Observer
from app.runtime.recovery import Down, Recovery
from app.runtime.upkeep import Upkeep

_LOADS = 3
"""A request may come to a load that began before its model's adapter was there, and to one more."""

_log = logging.getLogger(__name__)


class Manager:
    """Loads engines on demand and unloads them when they are not wanted (docs/reference 17).

    `start` loads the engine of a model; whatever it raises reaches the waiters as `LoadFailed`, and it is
    cancelled when it stands still for `load_timeout_s` or takes `load_total_s` (`inf`: none). `ledger` has
    the devices' memory; without one any number of engines is loaded. A model that finds no room beside
    engines in use waits for them, and after `patience_s` these take no new requests until it is loaded. At
    most `max_queue` requests wait for a load, and always one; as many wait for each engine that is busy.
    Requests for a loaded engine wait for its `Turns` (`max_queue_tokens` bounds their prompts), for no other
    model. Where callers are `keyed`, some places of an engine are for keys that have none, and a keep-alive
    or an unload is that of one model: an engine that several share stays for the longest of theirs.

    An engine that dies is loaded again at once, and after a failure with the back-off of `recovery`;
    `on_crash_loop` is told the reason when that is hopeless. `heir` gives a model that is still served and
    has the engine of another, or None: a model that was deleted meanwhile is not loaded again.
    """

    def __init__(
        self,
        start: Callable[[Model], Awaitable[Engine]],
        *,
        keep_alive_s: float,
        load_timeout_s: float,
        load_total_s: float = math.inf,
        max_queue: int,
        max_queue_tokens: int = 0,
        keyed: bool = False,
        default_context: int = 4096,
        ledger: Ledger | None = None,
        patience_s: float = math.inf,
        observer: Observer | None = None,
        recovery: Recovery | None = None,
        on_crash_loop: Callable[[str], None] | None = None,
        heir: Callable[[Model], Model | None] = lambda model: model,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries = Entries(
            keep_alive_s=keep_alive_s,
            max_queue=max_queue,
            max_queue_tokens=max_queue_tokens,
            keyed=keyed,
            default_context=default_context,
            ledger=ledger,
            patience_s=patience_s,
        )
        self.default_context = default_context
        self._keyed = keyed
        self._clock = clock
        self._recovery = recovery or Recovery(clock=clock)
        self._upkeep = Upkeep(
            self._entries,
            Loader(start, load_timeout_s, load_total_s),
            self._recovery,
            observer or NullObserver(),
            on_crash_loop or _log.error,
            heir,
            clock,
        )
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._adapters: Counter[str] = Counter()

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
        return entry is not None and entry.state is State.READY and entry.serves(model)

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

    def asleep(self) -> list[Model]:
        """The models whose engines are asleep. May be read from any thread."""
        return [entry.model for entry in self._entries.sleepers if entry.state is State.ASLEEP]

    def asleep_bytes(self) -> tuple[int, int]:
        """What engines may have of the host's memory to sleep, and what they have. From any thread."""
        return self._entries.ledger.sleep_bytes, self._entries.ledger.host_used

    def memory(self) -> list[tuple[Device, int]]:
        """Each device whose memory is known, and the bytes of it that engines have or were promised.

        May be read from any thread.
        """
        return self._entries.ledger.rows()

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
        for _ in range(_LOADS):
            entry = self._join(model, keep_alive_s, num_ctx, caller)
            if model.adapter is not None:
                self._adapters[model.adapter.digest] += 1
            try:
                engine = await self._engine_of(entry, model)
                if not engine.takes(model.adapter):
                    continue  # Its load began before there was such an adapter.
                load_ns = max(1, int((self._clock() - began) * 1e9))
                yield Lease(engine, load_ns, self._entries.context_length(engine, num_ctx), entry.turns)
                return
            except EngineDied as error:
                if self._closed:
                    raise Draining from error
                raise
            finally:
                if model.adapter is not None:
                    self._adapters.subtract((model.adapter.digest,))
                    self._adapters = +self._adapters
                self._leave(entry)
        raise LoadFailed(f"the engine of {model.name} was loaded without room for its adapter")

    def forget(self, models: Iterable[Model]) -> None:
        """Have the engines forget adapters that no model has any more."""
        for model in models:
            self._entries.sleepers.forget(model)
            for entry, engine in self._entries.loaded():
                if entry.key == model.engine_key and model.adapter is not None:
                    engine.forget(model.adapter)

    def running_adapters(self) -> Iterable[str]:
        """The digests of the adapters of requests under way."""
        return self._adapters.keys()

    def preload(self, model: Model) -> None:
        """Load the model although no request asks for it; waits for nothing."""
        if not self._closed and self._entries.of(model) is None:
            self._recovery.expect(model)
            self._upkeep.keep(self._entries.preloaded(model), 0.0)

    def unload(self, model: Model) -> None:
        """Unload the model's engine as soon as nothing uses it or has a claim to it; waits for nothing.

        One that is asleep is closed.
        """
        self._upkeep.wake_no_more(model)
        self._unload(model)

    def _unload(self, model: Model) -> None:
        if (entry := self._entries.of(model)) is None:
            return
        is_last = self._entries.release(entry, model)
        if entry.state is State.READY:
            self._upkeep.check_idle(entry)  # Another model's claim may end sooner than the one given up.
        elif is_last and entry.state in (State.BACKING_OFF, State.QUEUED) and not entry.users:
            self._upkeep.drop(entry)

    def left(self, model: Model, is_shared: bool) -> None:
        """A model is no longer served, or is another now; `is_shared`: others have its engine."""
        if not is_shared:
            self.unload(model)
        elif self._keyed:
            self._unload(model)

    async def wait_idle(self) -> None:
        """Return once no request holds an engine or waits for one."""
        await self._idle.wait()

    async def close(self) -> None:
        """Unload everything at once and refuse what comes; requests under way fail in their engines."""
        self._closed = True
        await self._upkeep.close()

    # One request: join, wait, leave.

    def _join(self, model: Model, keep_alive_s: float | None, num_ctx: int | None, caller: Caller) -> Entry:
        if self._closed:
            raise Draining()
        there = self._entries.of(model)
        if there is not None and there.engine is not None and not there.engine.takes(model.adapter):
            if there.stays:
                raise LoadFailed(f"the engine of {model.name} was loaded without room for its adapter")
            self._upkeep.outgrow(there, model)
        entry = self._entries.join(model, keep_alive_s, num_ctx, caller)
        self._idle.clear()
        self._upkeep.pump()
        return entry

    async def _engine_of(self, entry: Entry, model: Model) -> Engine:
        if not entry.settled.is_set():
            self._entries.waiting += 1
            try:
                await entry.settled.wait()
            finally:
                self._entries.waiting -= 1
        try:
            return entry.outcome()
        except LoadFailed as error:
            # It was loaded for another model of the same weights, which whoever asks may not know of.
            own, other = str(model.name), str(entry.model.name)
            if own == other or other not in str(error):
                raise
            raise LoadFailed(str(error).replace(other, own)) from error.__cause__

    def _leave(self, entry: Entry) -> None:
        self._entries.leave(entry)
        if not self._entries.users:
            self._idle.set()
        if entry.users:
            return
        if entry.state is State.QUEUED and not entry.kept:
            self._upkeep.drop(entry)
        elif entry.state is State.READY:
            self._upkeep.begin_idle(entry)
        elif entry.state is State.LEAVING:
            self._upkeep.left(entry)
        self._upkeep.pump()
