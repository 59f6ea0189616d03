"""The network below httpcore: connections to checked addresses, whose bytes are counted."""

import ssl
from collections.abc import Iterable
from typing import Any, cast

import httpcore

from app.core.errors import FetchFailed
from app.egress.dialer import Dialer


class WireLimit(FetchFailed):
    """More bytes came than a fetch may take."""


class Meter:
    """How many bytes one fetch has received, over all its connections, and may receive at most."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.received_bytes = 0

    def room(self, asked_bytes: int) -> int:
        """How much may be read next.

        Raises:
            WireLimit: where that is nothing.
        """
        left = self.limit_bytes - self.received_bytes
        if left <= 0:
            raise WireLimit(f"the answer is over {self.limit_bytes} bytes")
        return min(asked_bytes, left)


class Network(httpcore.AsyncNetworkBackend):
    """What httpcore connects by. `dialer` is None where only the operator's own proxy is connected to."""

    def __init__(self, meter: Meter, dialer: Dialer | None) -> None:
        self._meter = meter
        self._dialer = dialer
        # Declared twice in httpcore, for machines without anyio.
        self._inner = cast(httpcore.AsyncNetworkBackend, httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if self._dialer is None:
            return _Metered(await self._inner.connect_tcp(host, port, timeout), self._meter)
        return _Metered(await self._dialer.connect(host, port, self._connect), self._meter)

    async def _connect(self, address: str, port: int) -> httpcore.AsyncNetworkStream:
        """`address` is one in numbers, of which nothing is looked up."""
        try:
            return await self._inner.connect_tcp(address, port)
        except httpcore.NetworkError as error:
            raise OSError(str(error)) from error

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _Metered(httpcore.AsyncNetworkStream):
    def __init__(self, inner: httpcore.AsyncNetworkStream, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        piece = await self._inner.read(self._meter.room(max_bytes), timeout)
        self._meter.received_bytes += len(piece)
        return piece

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Metered(await self._inner.start_tls(ssl_context, server_hostname, timeout), self._meter)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
