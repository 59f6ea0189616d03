"""Blobs on their way in: from the socket to the disk, a few MiB at a time (docs/reference 11.2)."""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from app.api.body import Upload, Uploads
from app.core.errors import (
    BodyTimeout,
    BodyTooLarge,
    DigestMismatch,
    Forbidden,
    StoreFull,
    UnsupportedEncoding,
)
from app.runtime.reach import Reach
from app.store.holds import Hold
from app.store.partial import Partial
from app.store.store import Store

PIECE_BYTES = 4 << 20
"""What is in memory of a blob that arrives, and less where too many do."""

_STEP_BYTES = 64 << 20
"""So much room is reserved at a time for a blob whose size is not announced."""


async def receive_blob(
    request: Request,
    reach: Reach,
    digest: str,
    *,
    uploads: Uploads,
    key_id: str,
    quota_bytes: int,
    limit_bytes: int,
    pause_s: float,
) -> bool:
    """Store the request's body as the blob `digest`; whether it is new to the caller: else the body is not
    read. One that is here, and that the caller may not name, is read all the same: then the caller has it.

    Raises:
        InvalidDigest, DigestMismatch: for a digest that is none, or another's.
        BodyTooLarge: over `limit_bytes` (0 is no limit). BodyTimeout: where nothing comes for `pause_s`.
        BodiesFull, ConcurrencyExceeded: where too many blobs arrive at once.
        Forbidden: over the quota. StoreFailed, StoreFull: where the store does not take it.
        UnsupportedEncoding: for a body that would have to be decoded.
    """
    store = reach.store
    blobs = store.threads.blobs
    if await blobs.run(_is_known, reach, digest):
        return False
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", ""):
        raise UnsupportedEncoding(f"blobs are taken as they are, not encoded as {encoding!r}"[:200])
    announced = request.headers.get("content-length", "")
    expected = int(announced) if announced.isdigit() else 0
    _check_size(expected, limit_bytes)
    with uploads.one(key_id) as upload, store.hold() as hold:
        free = await blobs.run(_free_bytes, store)
        partial = await blobs.run(store.blobs.begin, digest, None, shared=False)
        try:
            room = _Room(store, hold, partial, quota_bytes, free)
            if expected:
                await room.reserve(expected)
            await _write(request, store, partial, room, upload, limit_bytes, pause_s)
            await blobs.run(partial.commit)
        finally:
            await blobs.run(partial.abort, keep=False)
        await blobs.run(_note, reach, digest)
    return True


def _is_known(reach: Reach, digest: str) -> bool:
    return not reach.lacking([digest]) and reach.store.blobs.adopt(digest)


def _note(reach: Reach, digest: str) -> None:
    reach.sent(digest)
    reach.store.blobs.adopt(digest)  # one that was here before is not pruned soon


class _Room:
    """What one blob may take: within the quota, where there is one, and what is `free` on the disk."""

    def __init__(self, store: Store, hold: Hold, partial: Partial, quota_bytes: int, free_bytes: int) -> None:
        self._store, self._hold, self._partial = store, hold, partial
        self._quota_bytes, self._free_bytes = quota_bytes, free_bytes
        self._reserved_bytes = 0

    async def reserve(self, size_bytes: int) -> None:
        """Raises: Forbidden: over the quota."""
        if self._quota_bytes and not self._partial.whole:
            sizes = {self._partial.name: size_bytes}
            await self._store.threads.changes.run(self._hold.reserve, sizes, self._quota_bytes)
        self._reserved_bytes = size_bytes

    async def grow(self, size_bytes: int) -> None:
        """Raises: StoreFull: where so much does not fit."""
        if size_bytes > self._free_bytes:
            raise StoreFull("the blob is larger than what is left")
        if size_bytes <= self._reserved_bytes:
            return
        try:
            await self.reserve(size_bytes + _STEP_BYTES)
        except Forbidden:
            try:
                await self.reserve(size_bytes)
            except Forbidden as error:
                raise StoreFull("the blob is larger than what is left") from error


async def _write(
    request: Request,
    store: Store,
    partial: Partial,
    room: _Room,
    upload: Upload,
    limit_bytes: int,
    pause_s: float,
) -> None:
    written, seen = 0, hashlib.sha256()
    async for piece in _pieces(request, upload, pause_s):
        _check_size(written + len(piece), limit_bytes)
        await room.grow(written + len(piece))
        if partial.whole:  # it is here, and this body is only to be the same
            await store.threads.blobs.run(seen.update, piece)
        else:
            await store.threads.blobs.run(partial.write_at, written, piece)
        written += len(piece)
    if partial.whole and (got := f"sha256:{seen.hexdigest()}") != partial.digest:
        raise DigestMismatch(partial.digest, got)


async def _pieces(request: Request, upload: Upload, pause_s: float) -> AsyncIterator[bytearray]:
    held = bytearray()
    more = True
    while more:
        try:
            async with asyncio.timeout(pause_s):
                message = await request.receive()
        except TimeoutError:
            raise BodyTimeout(f"nothing of the blob arrived for {pause_s:g} seconds") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        held += message.get("body", b"")
        more = message.get("more_body", False)
        is_full = len(held) >= PIECE_BYTES or not upload.fits(len(held))
        if held and (is_full or not more):
            yield held
            held = bytearray()
            upload.fits(0)


def _free_bytes(store: Store) -> int:
    for folder in (store.root, *store.root.parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return 0


def _check_size(size: int, limit_bytes: int) -> None:
    if 0 < limit_bytes < size:
        raise BodyTooLarge(f"the blob is too large: the limit is {limit_bytes} bytes")
