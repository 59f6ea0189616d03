"""The downloads of this process: one for each digest, however many wait for it."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from app.core.errors import AppError, StoreBusy
from app.registry.download import Download, Open, Tuning
from app.registry.progress import INTERVAL_S
from app.store.blobs import Blobs
from app.store.partial import Partial

_LOCK_S = 0.2
"""How often a blob is looked at that another process fetches."""


@dataclass(slots=True)
class _Shared:
    task: "asyncio.Future[None]" = field(init=False)
    waiting: int = 0
    download: Download | None = None
    elsewhere: int = 0

    @property
    def completed(self) -> int:
        return self.download.completed if self.download else self.elsewhere


class Downloads:
    """Brings blobs into `blobs`. The last to leave a download ends it; what has come is kept."""

    def __init__(self, blobs: Blobs, tuning: Tuning | None = None) -> None:
        self._blobs = blobs
        self._tuning = tuning or Tuning()
        self._running: dict[str, _Shared] = {}

    @property
    def blobs(self) -> Blobs:
        return self._blobs

    @property
    def running(self) -> int:
        return len(self._running)

    async def fetch(self, digest: str, size: int, open: Open) -> AsyncGenerator[int]:
        """How many bytes are there, at most once in `INTERVAL_S`, until the blob is whole.

        Raises:
            RegistryFailed, AddressRefused, Forbidden: as `Download.run`.
        """
        while True:
            shared = self._running.get(digest)
            own = shared is None
            if shared is None:
                shared = _Shared()
                self._running[digest] = shared
                shared.task = asyncio.ensure_future(self._run(digest, size, open, shared))
            shared.waiting += 1
            try:
                while not (await asyncio.wait({shared.task}, timeout=INTERVAL_S))[0]:
                    yield shared.completed
            finally:
                shared.waiting -= 1
                if not shared.waiting and not shared.task.done():
                    self._running.pop(digest, None)
                    shared.task.cancel()
                    await asyncio.wait({shared.task})
            try:
                shared.task.result()
            except (AppError, asyncio.CancelledError):
                # Another's registry or login failed: one's own may not.
                if own:
                    raise
                continue
            return

    async def _run(self, digest: str, size: int, open: Open, shared: _Shared) -> None:
        try:
            partial = await self._begin(digest, size, shared)
            shared.download = Download(open, partial, size, self._tuning)
            await shared.download.run()
        finally:
            if self._running.get(digest) is shared:
                del self._running[digest]

    async def _begin(self, digest: str, size: int, shared: _Shared) -> Partial:
        """The right to write the blob; while another process has it, what that one has written is told."""
        while True:
            begun = asyncio.ensure_future(asyncio.to_thread(self._blobs.begin, digest, size))
            try:
                return await asyncio.shield(begun)
            except asyncio.CancelledError:
                # The thread goes on, and what it opens has the lock of the blob.
                begun.add_done_callback(_give_back)
                raise
            except StoreBusy:
                shared.elsewhere = await asyncio.to_thread(self._blobs.written, digest)
                await asyncio.sleep(_LOCK_S)


def _give_back(begun: "asyncio.Future[Partial]") -> None:
    """Lets go of a partial that nobody waits for any more."""
    if not begun.cancelled() and begun.exception() is None:
        begun.get_loop().run_in_executor(None, begun.result().abort, True)
