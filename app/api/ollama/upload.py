"""Blobs on their way in: from the socket to the disk, a few MiB at a time (docs/reference 11.2)."""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from app.core.errors import BodyTimeout, BodyTooLarge, DigestMismatch, StoreFull, UnsupportedEncoding
from app.registry.policy import Policy
from app.registry.pull import stored_bytes
from app.runtime.reach import Reach
from app.store.partial import Partial
from app.store.store import Store

PIECE_BYTES = 4 << 20
"""What is in memory of a blob that arrives."""


async def receive_blob(
    request: Request, reach: Reach, digest: str, *, policy: Policy, limit_bytes: int, pause_s: float
) -> bool:
    """Store the request's body as the blob `digest`; whether it is new to the caller: else the body is not
    read. One that is here, and that the caller may not name, is read all the same: then the caller has it.

    Raises:
        InvalidDigest, DigestMismatch: for a digest that is none, or another's.
        BodyTooLarge: over `limit_bytes` (0 is no limit). BodyTimeout: where nothing comes for `pause_s`.
        Forbidden: over the quota. StoreFailed, StoreFull: where the store does not take it.
        UnsupportedEncoding: for a body that would have to be decoded.
    """
    store = reach.store
    if await asyncio.to_thread(_is_known, reach, digest):
        return False
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", ""):
        raise UnsupportedEncoding(f"blobs are taken as they are, not encoded as {encoding!r}"[:200])
    announced = request.headers.get("content-length", "")
    expected = int(announced) if announced.isdigit() else 0
    _check_size(expected, limit_bytes)
    room = await asyncio.to_thread(_room, store, policy, expected)
    partial = await asyncio.to_thread(store.blobs.begin, digest, None, shared=False)
    try:
        await _write(request, partial, limit_bytes, room, pause_s)
        await asyncio.to_thread(partial.commit)
    finally:
        await asyncio.to_thread(partial.abort, keep=False)
    await asyncio.to_thread(_note, reach, digest)
    return True


def _is_known(reach: Reach, digest: str) -> bool:
    return not reach.lacking([digest]) and reach.store.blobs.adopt(digest)


def _note(reach: Reach, digest: str) -> None:
    reach.sent(digest)
    reach.store.blobs.adopt(digest)  # one that was here before is not pruned soon


async def _write(request: Request, partial: Partial, limit_bytes: int, room: int, pause_s: float) -> None:
    written, seen = 0, hashlib.sha256()
    async for piece in _pieces(request, pause_s):
        _check_size(written + len(piece), limit_bytes)
        if written + len(piece) > room:
            raise StoreFull("the blob is larger than what is left")
        if partial.whole:  # it is here, and this body is only to be the same
            await asyncio.to_thread(seen.update, piece)
        else:
            await asyncio.to_thread(partial.write_at, written, piece)
        written += len(piece)
    if partial.whole and (got := f"sha256:{seen.hexdigest()}") != partial.digest:
        raise DigestMismatch(partial.digest, got)


async def _pieces(request: Request, pause_s: float) -> AsyncIterator[bytearray]:
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
        if len(held) >= PIECE_BYTES or (held and not more):
            yield held
            held = bytearray()


def _room(store: Store, policy: Policy, expected: int) -> int:
    """Bytes that the store may still take."""
    free = _free_bytes(store)
    if not policy.quota_bytes:
        return free
    stored = stored_bytes(store.blobs)
    policy.check_quota(stored, max(expected, 1))
    return min(free, policy.quota_bytes - stored)


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
