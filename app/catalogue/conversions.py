"""The conversions of this process: a few at once, and one for each file however many wait for it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from app.core import progress
from app.core.pool import Pool

AT_ONCE = 2
"""Each takes gigabytes of memory and several cores."""

_WAITING = 64

Moved: TypeAlias = Callable[[], None]
Work: TypeAlias = Callable[[Moved], None]
"""Converts a file, and calls what it is given whenever that has moved on."""


@dataclass(slots=True, eq=False)
class _Shared:
    listeners: list[Moved]
    begun: bool = False
    task: "asyncio.Future[None]" = field(init=False)


class Conversions:
    """Runs conversions in threads of their own, so that nothing else waits for one; on one event loop."""

    def __init__(self) -> None:
        self._pool = Pool("conversions", workers=AT_ONCE, waiting=_WAITING)
        self._running: dict[str, _Shared] = {}

    async def run(self, digest: str, work: Work) -> None:
        """Have the file of that digest converted by `work`, or wait for who is at it. Leaving frees the place
        of one that has not begun and that nobody else waits for; one that has begun goes on.

        Raises:
            Overloaded: where too many others wait.
            Whatever `work` raises, to all who wait for it.
        """
        shared = self._running.get(digest)
        if shared is None:
            shared = self._running[digest] = _Shared([])
            shared.task = asyncio.ensure_future(self._run(digest, work, shared))
        moved = progress.listener()
        shared.listeners.append(moved)
        try:
            # Not awaited by itself: whoever leaves would end it for all.
            await asyncio.wait({shared.task})
        finally:
            shared.listeners.remove(moved)
            if not shared.listeners and not shared.begun:
                self._forget(digest, shared)
                shared.task.cancel()
        shared.task.result()

    async def _run(self, digest: str, work: Work, shared: _Shared) -> None:
        def moved() -> None:
            for listener in tuple(shared.listeners):
                listener()

        def convert() -> None:
            shared.begun = True
            work(moved)

        try:
            await self._pool.run(convert)
        finally:
            self._forget(digest, shared)
            # Looked at: a failure that nobody waits for any more is no fault of the server.
            asyncio.get_running_loop().call_soon(lambda: shared.task.cancelled() or shared.task.exception())

    def _forget(self, digest: str, shared: _Shared) -> None:
        if self._running.get(digest) is shared:
            del self._running[digest]
