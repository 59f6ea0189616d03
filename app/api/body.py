"""Reading a request's body whole, within a size, a time and a budget that all bodies share."""

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.api.encodings import Encoding, encoding_of
from app.core.errors import BodiesFull, BodyTimeout, BodyTooLarge

_FREE_BYTES = 64 << 10
"""What a body may have before it counts: the server holds as much of any connection, and a small request is
never turned away for what others send."""


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

    def hold(self, size_bytes: int) -> None:
        """Raises: BodiesFull: nothing is held then."""
        if self._limit_bytes and self.held_bytes + size_bytes > self._limit_bytes:
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
