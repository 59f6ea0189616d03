"""Connections that carry whatever a browser speaks: to checked addresses, or through the operator's proxy."""

import asyncio
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeAlias

import httpx

from app.core.errors import FetchFailed
from app.egress.dialer import Dialer, Resolve
from app.egress.guard import Guard
from app.egress.target import shown
from app.egress.upstream import Upstream

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

HEAD_BYTES = 64 << 10
"""The most that the head of a request or response may take."""


class Tunnels:
    """Opens connections to hosts as `read_host` returns them; `upstream` then resolves names."""

    def __init__(
        self, guard: Guard, *, resolve: Resolve | None = None, upstream: Upstream | None = None
    ) -> None:
        self._guard = guard
        self._dialer = Dialer(guard, resolve)
        self.upstream = upstream
        self._certificates = httpx.create_ssl_context() if upstream is not None and upstream.is_tls else None

    async def open(self, host: str, port: int) -> Streams:
        """A connection on which the host itself is spoken to.

        Raises:
            AddressRefused, FetchFailed, Overloaded: as `Dialer.connect`.
        """
        if self.upstream is None:
            return await self._dialer.connect(host, port, _connect)
        reader, writer = await self.open_upstream(host, port)
        try:
            login = self.upstream.authorization
            more = f"Proxy-Authorization: {login}\r\n" if login else ""
            writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{more}\r\n".encode())
            answer = (await read_head(reader)).split(b" ", 2)
        except (OSError, EOFError, ValueError) as error:
            writer.close()
            raise FetchFailed("the egress proxy did not answer") from error
        except BaseException:
            writer.close()
            raise
        if len(answer) < 2 or not answer[1].startswith(b"2"):
            writer.close()
            raise FetchFailed(f"the egress proxy does not open {shown(host)}")
        return reader, writer

    async def open_upstream(self, host: str, port: int) -> Streams:
        """A connection to the operator's proxy, which may be asked for that host.

        Raises:
            AddressRefused, FetchFailed
        """
        assert self.upstream is not None
        self._guard.check_host(host, port)
        try:
            return await _connect(self.upstream.host, self.upstream.port, self._certificates)
        except OSError as error:
            raise FetchFailed("the egress proxy cannot be reached") from error


@contextmanager
def ended(writer: asyncio.StreamWriter) -> Generator[None]:
    """The connection ends with the block, and at once where that fails: nobody waits for idle peers."""
    try:
        yield
    except BaseException:
        writer.transport.abort()
        raise
    finally:
        writer.close()


async def read_head(reader: asyncio.StreamReader) -> bytes:
    """A head with the empty line that ends it.

    Raises:
        EOFError, ValueError: where there is none, or a longer one than may be.
    """
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise ValueError("the head is too large") from error


async def _connect(address: str, port: int, certificates: ssl.SSLContext | None = None) -> Streams:
    return await asyncio.open_connection(address, port, ssl=certificates, limit=HEAD_BYTES)
