"""What a worker has in place of the manager, the limiter and the library: those of another process."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from app.catalogue.library import Library, key_of
from app.catalogue.stored import StoredModels
from app.core.context import ANYBODY, Caller, Limits, RequestContext
from app.core.device import Device
from app.core.errors import Draining, EngineDied
from app.core.model import Model
from app.engine.base import Engine
from app.fronts.peer import Peer
from app.runtime.entry import Lease, LoadedModel
from app.runtime.recovery import Down

_NO_LIMITS = Limits()
_log = logging.getLogger(__name__)

Attach = Callable[[int, bytes], Awaitable[Engine]]
"""Makes an engine of what its process has told of it, given its number."""


class RemoteManager:
    """The manager of another process; engines are attached to here when they are loaded there."""

    def __init__(self, attach: Attach, default_context: int) -> None:
        self._attach = attach
        self.default_context = default_context
        self._engines: dict[int, Engine] = {}
        self._attaching: dict[int, asyncio.Task[None]] = {}
        self._closed = False
        self.peer: Peer | None = None
        self.on_open: Callable[[], None] = lambda: None
        """Called before anything is asked of the other process; it is to set `peer`."""
        self.library = MirroredLibrary(self)
        self.serving = asyncio.Event()
        self.asks: dict[str, Any] = {
            "models": self._models,
            "opened": self._opened,
            "closed": self._engine_closed,
            "serve": self._serve,
        }
        self.tells: dict[str, Callable[..., None]] = {}

    @property
    def _manager(self) -> Peer:
        assert self.peer is not None
        return self.peer

    # What requests do.

    @asynccontextmanager
    async def lease(
        self, model: Model, *, keep_alive_s: float | None, num_ctx: int | None, caller: Caller = ANYBODY
    ) -> AsyncGenerator[Lease, None]:
        """See `Manager.lease`."""
        if self._closed:
            raise Draining
        wanted = self.library.number_of(model)
        try:
            whose = None if caller is ANYBODY else caller
            async with self._manager.hold("lease", wanted, keep_alive_s, num_ctx, whose) as (number, leased):
                engine, load_ns, context_length = leased
                if engine not in self._engines:
                    raise EngineDied  # It ended while the lease was on its way.
                yield Lease(
                    self._engines[engine], load_ns, context_length, RemoteTurns(self._manager, number)
                )
        except EngineDied as error:
            if self._closed:
                raise Draining from error
            raise

    def unload(self, model: Model) -> None:
        self._manager.tell("unload", self.library.number_of(model))

    # What is asked of a manager beside requests: the manager itself tells of that.

    @property
    def waiting(self) -> int:
        return 0

    @property
    def down(self) -> list[Down]:
        return []

    @property
    def started(self) -> bool:
        return True

    def ready(self, model: Model) -> bool:
        return False

    def loaded(self) -> list[LoadedModel]:
        return []

    def engines(self) -> list[tuple[Model, Engine]]:
        return []

    def queued(self) -> list[tuple[Model, float]]:
        return []

    def running_adapters(self) -> set[str]:
        return set()

    def asleep(self) -> list[Model]:
        return []

    def asleep_bytes(self) -> tuple[int, int]:
        return 0, 0

    def memory(self) -> list[tuple[Device, int]]:
        return []

    def preload(self, model: Model) -> None:
        """The manager does."""

    def forget(self, models: Iterable[Model]) -> None:
        """The manager does."""

    def left(self, model: Model, is_shared: bool) -> None:
        """The manager does."""

    async def close(self) -> None:
        """Let go of the engines: requests under way end."""
        self._closed = True
        engines = list(self._engines.values())
        self._engines.clear()
        for engine in engines:
            await engine.close()

    @property
    def attached(self) -> dict[int, Engine]:
        """By number."""
        return self._engines

    # What the manager tells of.

    async def _models(self, models: Sequence[tuple[int, Model]]) -> None:
        self.library.replace(models)

    async def _opened(self, number: int, attachment: bytes) -> None:
        """Attach to an engine; one that is told of twice, as this process begins, is attached to once."""
        if (attaching := self._attaching.get(number)) is None:
            attaching = self._attaching[number] = asyncio.create_task(self._attach_to(number, attachment))
        await asyncio.shield(attaching)

    async def _attach_to(self, number: int, attachment: bytes) -> None:
        self._engines[number] = await self._attach(number, attachment)

    async def _engine_closed(self, number: int) -> None:
        if (attaching := self._attaching.pop(number, None)) is not None:
            await asyncio.wait({attaching})
        if (engine := self._engines.pop(number, None)) is not None:
            await engine.close()

    async def _serve(self) -> None:
        self.serving.set()


class RemoteTurns:
    """The places of one engine, of which the manager knows who is next."""

    def __init__(self, manager: Peer, lease: int) -> None:
        self._manager, self._lease = manager, lease

    @asynccontextmanager
    async def turn(self, key_id: str, priority: int, tokens: int) -> AsyncGenerator["RemoteTurn", None]:
        """See `Turns.turn`."""
        async with self._manager.hold("turn", self._lease, key_id, priority, tokens) as (number, granted):
            yield RemoteTurn(self._manager, number, tokens, *granted)


class RemoteTurn:
    """See `Turn`."""

    def __init__(self, manager: Peer, number: int, tokens: int, priority: int, waited_ns: int) -> None:
        self._manager, self._number = manager, number
        self.tokens, self.priority, self.waited_ns = tokens, priority, waited_ns
        self.silent = True

    def speaks(self) -> None:
        self.silent = False
        self._manager.tell("speaks", self._number)


class RemoteLimiter:
    """Keys' limits, counted where the manager is; keys that have none cost nothing."""

    def __init__(self, remote: RemoteManager) -> None:
        self._remote = remote

    @asynccontextmanager
    async def admit(self, ctx: RequestContext) -> AsyncGenerator[None, None]:
        """See `Limiter.admit`."""
        if ctx.caller.limits == _NO_LIMITS:
            yield
            return
        manager = self._remote.peer
        assert manager is not None
        async with manager.hold("limits", ctx.caller) as (number, _):
            if ctx.caller.limits.tokens_per_minute is not None:
                ctx.reserve = partial(self._reserve, manager, number)
            try:
                yield
            finally:
                manager.tell("used", number, ctx.work.prompt_tokens, ctx.work.output_tokens)

    async def _reserve(
        self, manager: Peer, number: int, prompt: int, room: int, *, exact: bool
    ) -> tuple[int, Callable[[int], Awaitable[None]]]:
        tokens, grant = await manager.ask("reserve", number, prompt, room, exact)

        async def settle(used: int) -> None:
            with suppress(Draining):
                await manager.ask("settle", grant, used)

        return tokens, settle


class MirroredLibrary(Library):
    """The manager's list. Each model has a number there, by which it is asked for as it was found."""

    def __init__(self, remote: RemoteManager) -> None:
        super().__init__([])
        self._remote = remote
        self._latest: dict[int, tuple[Model, int]] = {}
        self._before: dict[int, tuple[Model, int]] = {}
        self._by_key: dict[str, int] = {}

    def open(self, stored: StoredModels) -> None:
        """The manager has the store."""

    async def reload(self, *, again: bool = False) -> None:
        """Return once the manager has told of all there is."""
        if self._remote.peer is None:
            self._remote.on_open()
        await self._remote.serving.wait()

    async def watch(self) -> None:
        await asyncio.get_running_loop().create_future()

    def replace(self, models: Sequence[tuple[int, Model]]) -> None:
        """What there is from now on; what was found before stays known until it changes once more."""
        latest = {number: model for model, number in self._latest.values()}
        kept = [(number, latest.get(number, model)) for number, model in models]
        new = {key_of(model.name): model for _, model in kept}
        names = [str(model.name) for key, model in new.items() if key not in self._models]
        self._models = new
        self._by_key = {key_of(model.name): number for number, model in kept}
        self._before, self._latest = self._latest, {id(model): (model, number) for number, model in kept}
        if names:
            self.on_new(names)

    def number_of(self, model: Model) -> int:
        """By which the manager knows a model that was found here."""
        known = self._latest.get(id(model)) or self._before.get(id(model))
        return known[1] if known is not None else self._by_key[key_of(model.name)]
