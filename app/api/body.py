"""Reading a request's body whole, within a size and a time."""

import asyncio
from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.core.errors import BodyTimeout, BodyTooLarge


async def read_body(
    receive: Receive,
    *,
    limit_bytes: int,
    timeout_s: float,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """The body, or `BodyTooLarge`, `BodyTimeout` or `ClientDisconnect`.

    `headers` are those of the scope: a `Content-Length` over the limit is refused without reading.
    """
    if _announced_bytes(headers) > limit_bytes:
        raise _too_large(limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _collect(receive, limit_bytes)
    except TimeoutError:
        raise BodyTimeout(f"request body did not arrive within {timeout_s:g} seconds") from None


async def _collect(receive: Receive, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size_bytes, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


def _announced_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """`Content-Length`, or 0 where there is none that can be read."""
    value = next((value for name, value in headers if name == b"content-length"), b"")
    return int(value) if value.isdigit() else 0


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"request body is too large: the limit is {limit_bytes} bytes")
