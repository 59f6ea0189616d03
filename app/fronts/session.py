"""What the manager does for one worker: leases, places and limits, which all workers have together."""

import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from app.access.limiter import Limiter
from app.core.context import ANYBODY, Caller, RequestContext, Settle
from app.core.model import Model
from app.engine.base import Engine
from app.runtime.entry import Lease
from app.runtime.manager import Manager
from app.runtime.queue import Place


class Numbered(Protocol):
    """The models and engines that workers know by number."""

    def model(self, number: int) -> Model: ...

    def number_of(self, engine: Engine) -> int: ...


class Session:
    """`holds`, `asks` and `tells` are what a `Peer` offers a worker; what a worker holds ends with it."""

    def __init__(self, manager: Manager, limiter: Limiter | None, numbered: Numbered) -> None:
        self._manager, self._limiter, self._numbered = manager, limiter, numbered
        self._leases: dict[int, Lease] = {}
        self._turns: dict[int, Place] = {}
        self._limited: dict[int, RequestContext] = {}
        self._grants: dict[int, Settle] = {}
        self._numbers = itertools.count(1)
        self.holds: dict[str, Any] = {"lease": self._lease, "turn": self._turn, "limits": self._limits}
        self.asks: dict[str, Any] = {"reserve": self._reserve, "settle": self._settle}
        self.tells: dict[str, Callable[..., None]] = {
            "unload": self._unload,
            "speaks": self._speaks,
            "used": self._used,
        }

    @asynccontextmanager
    async def _lease(
        self, number: int, model: int, keep_alive_s: float | None, num_ctx: int | None, caller: Caller | None
    ) -> AsyncGenerator[tuple[int, int, int], None]:
        """The number of the engine, how long it was waited for in ns, and the context in tokens."""
        leasing = self._manager.lease(
            self._numbered.model(model), keep_alive_s=keep_alive_s, num_ctx=num_ctx, caller=caller or ANYBODY
        )
        async with leasing as lease:
            self._leases[number] = lease
            try:
                yield self._numbered.number_of(lease.engine), lease.load_ns, lease.context_length
            finally:
                del self._leases[number]

    @asynccontextmanager
    async def _turn(
        self, number: int, lease: int, key_id: str, priority: int, tokens: int
    ) -> AsyncGenerator[tuple[int, int], None]:
        """The engine's priority, and how long the place was waited for in ns."""
        async with self._leases[lease].turns.turn(key_id, priority, tokens) as turn:
            self._turns[number] = turn
            try:
                yield turn.priority, turn.waited_ns
            finally:
                del self._turns[number]

    @asynccontextmanager
    async def _limits(self, number: int, caller: Caller) -> AsyncGenerator[None, None]:
        """A request of a key with limits, counted with those of all workers."""
        assert self._limiter is not None
        ctx = RequestContext(caller=caller)
        async with self._limiter.admit(ctx):
            self._limited[number] = ctx
            try:
                yield
            finally:
                del self._limited[number]

    async def _reserve(self, limits: int, prompt: int, room: int, exact: bool) -> tuple[int, int]:
        """The tokens that the answer may take, and the number of what is to be settled."""
        tokens, settle = await self._limited[limits].reserve(prompt, room, exact=exact)
        grant = next(self._numbers)
        self._grants[grant] = settle
        return tokens, grant

    async def _settle(self, grant: int, used: int) -> None:
        await self._grants.pop(grant)(used)

    def _used(self, limits: int, prompt_tokens: int, output_tokens: int) -> None:
        """What a request has come to, told before it ends."""
        if (ctx := self._limited.get(limits)) is not None:
            ctx.work.prompt_tokens, ctx.work.output_tokens = prompt_tokens, output_tokens

    def _unload(self, model: int) -> None:
        self._manager.unload(self._numbered.model(model))

    def _speaks(self, turn: int) -> None:
        if (known := self._turns.get(turn)) is not None:
            known.speaks()
