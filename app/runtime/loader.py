"""Starts an engine that keeps moving, puts one to sleep and wakes it, each within a time, and can be told to
stop."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from app.core import progress
from app.core.errors import Draining, LoadFailed
from app.core.model import Model
from app.engine.base import Engine

_TIMED_OUT = "timed out waiting for the model to load"
_SLEEP_S = 120.0
"""For falling asleep or waking: copying 100 GiB between a device and memory that has to be pinned first."""

_T = TypeVar("_T")


class Loader:
    """
    A start that tells of no progress (`core.progress`) for `stall_s`, or takes longer than `total_s`, is
    cancelled (`inf`: no limit). Ollama limits stalling alone (docs/reference 17); a load that moves for
    ever would keep all others waiting.
    """

    def __init__(
        self, start: Callable[[Model], Awaitable[Engine]], stall_s: float, total_s: float = math.inf
    ) -> None:
        self._start = start
        self._stall_s, self._total_s = stall_s, total_s
        self._under_way: set[asyncio.Future[Any]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Cancel all that is under way: the server ends."""
        self._stopped = True
        for work in self._under_way:
            work.cancel()

    async def load(self, model: Model) -> Engine:
        """
        Raises:
            LoadFailed: with the reason, whatever kept the engine from starting.
            Draining: it was stopped.
        """
        limit = asyncio.timeout(None)
        return await self._within(limit, self._told(limit, model))

    async def sleep(self, engine: Engine) -> None:
        """Put an engine to sleep. Raises what `load` does."""
        await self._within(asyncio.timeout(_SLEEP_S), engine.sleep())

    async def wake(self, engine: Engine) -> None:
        """Wake an engine. Raises what `load` does."""
        await self._within(asyncio.timeout(_SLEEP_S), engine.wake())

    async def _within(self, limit: asyncio.Timeout, work: Coroutine[Any, Any, _T]) -> _T:
        running: asyncio.Future[_T] | None = None
        try:
            async with limit:
                running = asyncio.ensure_future(work)
                self._under_way.add(running)
                return await running
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            raise Draining if self._stopped else LoadFailed("cancelled") from error
        except Exception as error:
            # An edge: whatever it was, those who wait for the engine must hear of it.
            reason = _TIMED_OUT if limit.expired() else str(error) or type(error).__name__
            raise LoadFailed(reason) from error
        finally:
            if running is not None:
                self._under_way.discard(running)

    async def _told(self, limit: asyncio.Timeout, model: Model) -> Engine:
        """Start it, with the limit put off at each sign of progress. Runs in a context of its own."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._total_s
        going = True

        def put_off() -> None:
            if going and not limit.expired():
                when = min(loop.time() + self._stall_s, end)
                limit.reschedule(when if math.isfinite(when) else None)

        def moved() -> None:
            if going:
                loop.call_soon_threadsafe(put_off)

        put_off()
        progress.listen(moved)
        try:
            return await self._start(model)
        finally:
            going = False
