"""Starts an engine within a time, and can be told to stop."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from app.core.errors import Draining, LoadFailed
from app.core.model import Model
from app.engine.base import Engine

_TIMED_OUT = "timed out waiting for the model to load"


class Loader:
    """One load at a time. A start that takes longer than `timeout_s` (`inf`: no limit) is cancelled."""

    def __init__(self, start: Callable[[Model], Awaitable[Engine]], timeout_s: float) -> None:
        self._start = start
        self._timeout_s = timeout_s if math.isfinite(timeout_s) else None
        self._starting: asyncio.Future[Engine] | None = None
        self._stopped = False

    def stop(self) -> None:
        """Cancel the load under way: the server ends."""
        self._stopped = True
        if self._starting is not None:
            self._starting.cancel()

    async def load(self, model: Model) -> Engine:
        """
        Raises:
            LoadFailed: with the reason, whatever kept the engine from starting.
            Draining: it was stopped.
        """
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                self._starting = asyncio.ensure_future(self._start(model))
                return await self._starting
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            raise Draining if self._stopped else LoadFailed("cancelled") from error
        except Exception as error:
            # An edge: whatever it was, those who wait for the engine must hear of it.
            reason = _TIMED_OUT if limit.expired() else str(error) or type(error).__name__
            raise LoadFailed(reason) from error
        finally:
            self._starting = None
