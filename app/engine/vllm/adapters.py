"""The adapters of one engine: which it has, under which numbers, and who uses them.

A request whose adapter vLLM cannot load ends the engine. So an adapter is added by a call of its own first,
which only fails, and its files stay as they are (`catalogue/adaptercopies.py`): vLLM reads them again when it
has dropped it for others.
"""

import asyncio
import itertools
import logging
import re
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from app.core.errors import EngineDied, EngineFailed, LoadFailed
from app.core.model import Adapter
from app.engine.vllm.process.failures import first_line

_ZERO = Path(__file__).parent / "zero_adapter"
"""An adapter without weights, which changes nothing."""

_IN_WORKER = re.compile(r"with error '(.*)', please check")
"""Where vLLM tells what a worker raised."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Known:
    """An adapter that vLLM has been told of; `adding` is the call that does so, once it has begun."""

    request: LoRARequest
    users: int = 0
    is_forgotten: bool = False
    adding: asyncio.Task[bool] | None = None


@dataclass(slots=True)
class Adapters:
    """Adapters of up to `rank` (0: none), of which vLLM keeps `capacity` in memory and reads the rest anew.

    `fault` is why there can be none. A number is never used again: vLLM would take the one for the other.
    """

    llm: AsyncLLM
    rank: int = 0
    capacity: int = 0
    fault: str = ""
    _known: dict[str, _Known] = field(default_factory=dict[str, _Known])
    _zero: LoRARequest | None = None
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _calls: set[asyncio.Task[bool]] = field(default_factory=set[asyncio.Task[bool]])

    async def open(self) -> None:
        """Once the engine has answered, before it is used.

        On a CPU a row without an adapter would get that of another row of its batch: such rows get one that
        changes nothing.
        """
        if self.rank and current_platform.is_cpu():
            zero = LoRARequest("zero", next(self._numbers), str(_ZERO))
            await self.llm.add_lora(zero)
            self._zero = zero

    @property
    def none(self) -> LoRARequest | None:
        """What a request without an adapter is sent with."""
        return self._zero

    def takes(self, adapter: Adapter | None) -> bool:
        """As `Engine.takes`."""
        if adapter is None or adapter.rank <= self.rank:
            return True
        if self.fault:
            raise LoadFailed(self.fault)
        return False

    @asynccontextmanager
    async def used(self, adapter: Adapter | None) -> AsyncGenerator[LoRARequest | None, None]:
        """What a request is sent with, whose adapter stays known until this is left.

        Raises:
            EngineFailed: where vLLM cannot use the adapter, or (`EngineDied`) the engine is gone.
        """
        if adapter is None:
            yield self._zero
            return
        known = self._known.get(adapter.digest)
        if known is None:
            request = LoRARequest(adapter.digest, next(self._numbers), str(adapter.path))
            known = self._known[adapter.digest] = _Known(request)
        known.is_forgotten = False
        known.users += 1
        try:
            await self._have(known)
            yield known.request
        finally:
            known.users -= 1
            if known.is_forgotten:
                self._drop_unused(adapter)

    def forget(self, adapter: Adapter) -> None:
        """As `Engine.forget`."""
        if (known := self._known.get(adapter.digest)) is not None:
            known.is_forgotten = True
            self._drop_unused(adapter)

    def end(self) -> None:
        """The engine is gone: whoever waits for an adapter hears of it."""
        for call in self._calls:
            call.cancel()

    async def _have(self, known: _Known) -> None:
        """Have the adapter in vLLM's memory. One call serves all who wait for it."""
        if known.adding is None or (known.adding.done() and len(self._known) > self.capacity):
            # Of more than fit, any may have been dropped; what vLLM still has costs one short call.
            known.adding = self._call(self.llm.add_lora(known.request))
        adding = known.adding
        if not adding.done():
            await asyncio.wait({adding})
        if adding.cancelled():
            raise EngineDied
        if (error := adding.exception()) is None:
            return
        known.adding = None
        if isinstance(error, EngineDeadError):
            raise EngineDied from error
        text = first_line(error)
        reason = found[1] if (found := _IN_WORKER.search(text)) else text
        reason = reason.replace(known.request.lora_path, "its folder").replace(known.request.lora_name, "it")
        _log.error("an adapter cannot be used: %s", reason)
        raise EngineFailed(f"the adapter of this model cannot be used: {reason}") from error

    def _call(self, asked: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        call = asyncio.ensure_future(asked)
        self._calls.add(call)
        call.add_done_callback(self._called)
        return call

    def _called(self, call: asyncio.Task[bool]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # has been looked at: nobody need wait for it any more

    def _drop_unused(self, adapter: Adapter) -> None:
        known = self._known.get(adapter.digest)
        if known is None or known.users or not known.is_forgotten:
            return
        del self._known[adapter.digest]
        self._call(self.llm.remove_lora(known.request.lora_int_id))
