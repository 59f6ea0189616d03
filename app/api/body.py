"""Reading a request's body, within a size, a time and a budget that all bodies share."""

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.api.encodings import Encoding, encoding_of
from app.api.places import Places
from app.core.errors import BodiesFull, BodyTimeout, BodyTooLarge

_FREE_BYTES = 64 << 10
"""What a body may have before it counts: the server holds as much of any connection, and a small request is
never turned away for what others send."""


_UPLOADS_PART = 4


class OpenBodies:
    """The bytes of all bodies that have not arrived whole yet. 0 is no limit."""

    def __init__(self, limit_bytes: int = 0) -> None:
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    @contextmanager
    def body(self) -> Generator["OpenBody"]:
        """One body; however its reading ends, what it held is free again."""
        one = OpenBody(self)
        try:
            yield one
        finally:
            self.held_bytes -= one.held_bytes

    def share_bytes(self, parts: int) -> float:
        return self._limit_bytes / parts if self._limit_bytes else float("inf")

    def has_room(self, size_bytes: int) -> bool:
        return not self._limit_bytes or self.held_bytes + size_bytes <= self._limit_bytes

    def hold(self, size_bytes: int) -> None:
        """Raises: BodiesFull: nothing is held then."""
        if not self.has_room(size_bytes):
            raise BodiesFull("the server is receiving too much at once, please try again")
        self.held_bytes += size_bytes


class OpenBody:
    """One body's part of the budget."""

    __slots__ = ("_all", "_arrived_bytes", "held_bytes")

    def __init__(self, bodies: OpenBodies) -> None:
        self._all = bodies
        self._arrived_bytes = 0
        self.held_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Raises: BodiesFull."""
        self._arrived_bytes += size_bytes
        more_bytes = max(0, self._arrived_bytes - _FREE_BYTES) - self.held_bytes
        self._all.hold(more_bytes)
        self.held_bytes += more_bytes


class Uploads:
    """The blobs that arrive at once, `most` together and `most_per_key` of one key (0 is no limit), and what
    of them is in memory: of the budget of bodies a quarter at most, so that they turn nobody away.
    """

    def __init__(self, bodies: OpenBodies, most: int = 0, most_per_key: int = 0) -> None:
        self._bodies = bodies
        self._places = Places("blobs that arrive", most, most_per_key)
        self.held_bytes = 0

    @contextmanager
    def one(self, key_id: str) -> Generator["Upload"]:
        """A place for one blob; `key_id` is empty where there are no keys.

        Raises:
            BodiesFull, ConcurrencyExceeded: where there is none.
        """
        with self._places.one(key_id):
            upload = Upload(self)
            try:
                yield upload
            finally:
                upload.fits(0)

    def grow(self, size_bytes: int) -> bool:
        """Hold so much more, or less; whether there is room for it."""
        if size_bytes > 0 and not (
            self.held_bytes + size_bytes <= self._bodies.share_bytes(_UPLOADS_PART)
            and self._bodies.has_room(size_bytes)
        ):
            return False
        self._bodies.held_bytes += size_bytes
        self.held_bytes += size_bytes
        return True


class Upload:
    """One blob on its way, and how much of it is in memory."""

    __slots__ = ("_all", "_held_bytes")

    def __init__(self, uploads: Uploads) -> None:
        self._all = uploads
        self._held_bytes = 0

    def fits(self, size_bytes: int) -> bool:
        """Whether so much of it may be in memory, which is held then. The first 64 KiB always are."""
        counted = max(0, size_bytes - _FREE_BYTES)
        if not self._all.grow(counted - self._held_bytes):
            return False
        self._held_bytes = counted
        return True


async def read_body(
    receive: Receive,
    *,
    limit_bytes: int,
    timeout_s: float,
    headers: Iterable[tuple[bytes, bytes]] = (),
    bodies: OpenBodies | None = None,
    decoded_limit_bytes: int = 0,
) -> bytes:
    """The body, decoded where its `Content-Encoding` is known.

    `headers` are those of the scope: a `Content-Length` over the limit is refused without reading.
    `decoded_limit_bytes` bounds what an encoded body comes to; 0 is no limit.

    Raises:
        BodyTooLarge, BodyTimeout, BodiesFull, UnsupportedEncoding, InvalidRequest, ClientDisconnect
    """
    headers = list(headers)
    if _announced_bytes(headers) > limit_bytes:
        raise _too_large(limit_bytes)
    encoding = encoding_of(headers, decoded_limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            with (bodies or OpenBodies()).body() as held:
                return await _collect(receive, limit_bytes, encoding, held)
    except TimeoutError:
        raise BodyTimeout(f"request body did not arrive within {timeout_s:g} seconds") from None


async def _collect(receive: Receive, limit_bytes: int, encoding: Encoding | None, held: OpenBody) -> bytes:
    whole: list[bytes] = []
    size_bytes, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        size_bytes += len(piece)
        if size_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        for part in encoding.feed(piece) if encoding else (piece,):
            held.add(len(part))
            whole.append(part)
            if encoding:
                await asyncio.sleep(0)  # a few bytes may come to many slices
        more = message.get("more_body", False)
    if encoding:
        encoding.end()
    return b"".join(whole)


def _announced_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """`Content-Length`, or 0 where there is none that can be read."""
    value = next((value for name, value in headers if name == b"content-length"), b"")
    return int(value) if value.isdigit() else 0


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"request body is too large: the limit is {limit_bytes} bytes")
