"""The conversions of this process: a few at once, and one for each file however many wait for it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from app.core import progress
from app.core.pool import Pool

_WAITING = 1024

Moved: TypeAlias = Callable[[], None]
Work: TypeAlias = Callable[[Moved], None]
"""Converts a file, and calls what it is given whenever that has moved on."""


@dataclass(slots=True, eq=False)
class _Shared:
    listeners: list[Moved]
    begun: bool = False
    task: "asyncio.Future[None]" = field(init=False)


class Conversions:
    """Runs conversions in threads of their own, so that nothing else waits for one; on one event loop.

    Each takes gigabytes of memory and several cores, so there are two at once: one for the load of an engine
    and one for whatever else, or models that are made would keep those that are asked for from loading.
    """

    def __init__(self) -> None:
        self._pools = {urgent: Pool("conversions", workers=1, waiting=_WAITING) for urgent in (False, True)}
        self._running: dict[tuple[str, bool], _Shared] = {}

    async def run(self, digest: str, work: Work, *, urgent: bool = False) -> None:
        """Have the file of that digest converted by `work`, or wait for who is at it. `urgent` is for a load.
        Leaving frees the place of one that has not begun and that nobody else waits for; one that has begun
        goes on.

        Raises:
            Overloaded: where too many others wait.
            Whatever `work` raises, to all who wait for it.
        """
        key = digest, urgent
        shared = self._begun(digest) or self._running.get(key)
        if shared is None:
            shared = self._running[key] = _Shared([])
            shared.task = asyncio.ensure_future(self._run(key, work, shared))
        moved = progress.listener()
        shared.listeners.append(moved)
        try:
            # Not awaited by itself: whoever leaves would end it for all.
            await asyncio.wait({shared.task})
        finally:
            shared.listeners.remove(moved)
            if not shared.listeners and not shared.begun:
                self._forget(key, shared)
                shared.task.cancel()
        shared.task.result()

    async def _run(self, key: tuple[str, bool], work: Work, shared: _Shared) -> None:
        def moved() -> None:
            for listener in tuple(shared.listeners):
                listener()

        def convert() -> None:
            shared.begun = True
            work(moved)

        try:
            await self._pools[key[1]].run(convert)
        finally:
            self._forget(key, shared)
            # Looked at: a failure that nobody waits for any more is no fault of the server.
            asyncio.get_running_loop().call_soon(lambda: shared.task.cancelled() or shared.task.exception())

    def _begun(self, digest: str) -> "_Shared | None":
        both = (self._running.get((digest, urgent)) for urgent in (True, False))
        return next((shared for shared in both if shared is not None and shared.begun), None)

    def _forget(self, key: tuple[str, bool], shared: _Shared) -> None:
        if self._running.get(key) is shared:
            del self._running[key]
