"""The downloads of this process: one for each origin and digest, however many wait for it."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

from app.core.errors import AppError, StoreBusy
from app.registry.download import Download, Open, Tuning
from app.registry.progress import INTERVAL_S
from app.registry.witness import Witness
from app.store.blobs import Blobs
from app.store.partial import Partial

_LOCK_S = 0.2
"""How often a blob is looked at that another process fetches."""
_HASHED_BYTES_S = 100 << 20
"""So many are hashed in a second at least, while nothing is written any more."""

_Key: TypeAlias = tuple[str, str]
"""Origin and digest."""


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
    """Brings blobs into `blobs`. The last to leave a download ends it; what has come is kept.

    What one origin is slow with is not waited for by those who ask another. A blob has one partial that
    outlives its writer; whoever cannot have that writes one of its own, which does not.
    """

    def __init__(self, blobs: Blobs, tuning: Tuning | None = None) -> None:
        self._blobs = blobs
        self._tuning = tuning or Tuning()
        self._running: dict[_Key, _Shared] = {}

    @property
    def blobs(self) -> Blobs:
        return self._blobs

    @property
    def running(self) -> int:
        return len(self._running)

    async def fetch(self, digest: str, size: int, open: Open, *, origin: str) -> AsyncGenerator[int]:
        """How many bytes are there, at most once in `INTERVAL_S`, until the blob is whole. `origin` is the
        server that `open` asks.

        Raises:
            RegistryFailed, AddressRefused, Forbidden: as `Download.run`.
        """
        key = origin, digest
        while True:
            shared = self._running.get(key)
            own = shared is None
            if shared is None:
                shared = _Shared()
                self._running[key] = shared
                shared.task = asyncio.ensure_future(self._run(key, size, open, shared))
            shared.waiting += 1
            try:
                while not (await asyncio.wait({shared.task}, timeout=INTERVAL_S))[0]:
                    yield shared.completed
            finally:
                shared.waiting -= 1
                if not shared.waiting and not shared.task.done():
                    self._running.pop(key, None)
                    await _end(shared.task)
            try:
                shared.task.result()
            except (AppError, asyncio.CancelledError):
                # Another's login failed: one's own may not.
                if own:
                    raise
                continue
            return

    async def prove(self, digest: str, size: int, open: Open) -> AsyncGenerator[int]:
        """As `fetch`, of all bytes and with nobody else, be the blob here or not: that `open` has it.

        Raises:
            RegistryFailed, AddressRefused, Forbidden: as `Download.run`.
        """
        own = await self._begun(digest, size, shared=False)
        if own.whole:
            download = Download(open, Witness(digest, size), size, replace(self._tuning, parts=1))
        else:
            download = Download(open, own, size, self._tuning)
        task = asyncio.ensure_future(download.run())
        try:
            while not (await asyncio.wait({task}, timeout=INTERVAL_S))[0]:
                yield download.completed
            task.result()
        finally:
            if not task.done():
                await _end(task)

    async def _run(self, key: _Key, size: int, open: Open, shared: _Shared) -> None:
        try:
            found = await self._begin(key, size, shared)
            shared.download = Download(open, found, size, self._tuning)
            await shared.download.run()
        finally:
            if self._running.get(key) is shared:
                del self._running[key]

    async def _begin(self, key: _Key, size: int, shared: _Shared) -> Partial:
        """The right to write the blob; while another process has it, what that one has written is told."""
        _, digest = key
        now = asyncio.get_running_loop().time
        since, before = now(), -1
        patience_s = self._tuning.share_s + size / _HASHED_BYTES_S
        while True:
            try:
                return await self._begun(digest, size, shared=True)
            except StoreBusy:
                if any(other != key and other[1] == digest for other in self._running):
                    return await self._begun(digest, size, shared=False)
            shared.elsewhere = await asyncio.to_thread(self._blobs.written, digest)
            if before < 0 or shared.elsewhere - before >= self._tuning.share_bytes:
                since, before = now(), shared.elsewhere
            elif now() - since > patience_s:
                return await self._begun(digest, size, shared=False)
            await asyncio.sleep(_LOCK_S)

    async def _begun(self, digest: str, size: int, *, shared: bool) -> Partial:
        begin = partial(self._blobs.begin, digest, size, shared=shared)
        begun = asyncio.ensure_future(asyncio.to_thread(begin))
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            # The thread goes on, and what it opens has the lock of the blob.
            begun.add_done_callback(_give_back)
            raise


async def _end(task: "asyncio.Future[None]") -> None:
    task.cancel()
    await asyncio.wait({task})


def _give_back(begun: "asyncio.Future[Partial]") -> None:
    """Lets go of a partial that nobody waits for any more."""
    if not begun.cancelled() and begun.exception() is None:
        begun.get_loop().run_in_executor(None, begun.result().abort, True)
