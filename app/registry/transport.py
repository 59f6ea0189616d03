"""The HTTP clients for registries: each connection goes to an address that the guard has checked.

A registry has a number of connections, those to where it sends counted in: one that is slow keeps nobody from
another. The clients follow no redirects and read no proxies from the environment: whoever uses them decides
on each hop.
"""

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, cast
from weakref import WeakValueDictionary

import httpcore
import httpx

from app import __version__
from app.egress.dialer import Dialer, Resolve
from app.egress.guard import Guard
from app.egress.network import Meter, Network
from app.egress.upstream import Upstream

USER_AGENT = f"caravan/{__version__}"
CONNECT_S = 10.0
_NO_LIMIT = 1 << 62
CONNECTIONS = 64
"""So many has a registry for blobs, as eight downloads have, and again for all else."""
_IDLE, _IDLE_S = 32, 30.0
"""Connections that are kept for a next request, and for how long."""
HEAD_S = 60.0
"""For a connection, and for the head of an answer, which may come in pieces without an end."""
_CHARGED = "caravan.charged"
_RECEIVED_BYTES = 512 << 10
"""What is read of a socket at once; httpcore asks for 64 KiB."""


@dataclass(frozen=True, slots=True)
class Charged:
    """Whose connection a request takes: that of `registry`, a host and port, be it for a blob or not."""

    registry: str
    is_blob: bool = False

    @property
    def extensions(self) -> Mapping[str, Any]:
        return {_CHARGED: self}


def make_client(
    guard: Guard,
    *,
    verify: bool = True,
    stall_s: float = 30.0,
    resolve: Resolve | None = None,
    upstream: Upstream | None = None,
    certificates: ssl.SSLContext | None = None,
) -> httpx.AsyncClient:
    """A client for registries; `verify` False takes any certificate, else servers are checked by
    `certificates`, as those of `EgressClient` are. No answer may pause for `stall_s`.
    No cookies are kept: many registries send one for a login, and it would be sent for whoever comes next.
    """
    context = certificates if verify and certificates else httpx.create_ssl_context(verify=verify)
    timeout = httpx.Timeout(stall_s, connect=CONNECT_S, pool=None)
    return httpx.AsyncClient(
        transport=GuardedTransport(guard, context, resolve=resolve, upstream=upstream),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        timeout=timeout,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        follow_redirects=False,
        trust_env=False,
    )


class GuardedTransport(httpx.AsyncBaseTransport):
    """httpx over httpcore, connected by the guard's dialer, or through the operator's proxy.

    Where the registry that a request is charged to has `CONNECTIONS` under way, the request waits.

    Raises:
        AddressRefused, FetchFailed, Overloaded: from each request, as the dialer does.
    """

    def __init__(
        self,
        guard: Guard,
        context: ssl.SSLContext,
        *,
        resolve: Resolve | None = None,
        upstream: Upstream | None = None,
    ) -> None:
        self._guard = guard
        self._places: WeakValueDictionary[Charged, asyncio.Semaphore] = WeakValueDictionary()
        if upstream is None:
            self._pool = httpcore.AsyncConnectionPool(
                context,
                max_connections=None,
                max_keepalive_connections=_IDLE,
                keepalive_expiry=_IDLE_S,
                network_backend=_Wide(Meter(_NO_LIMIT), Dialer(guard, resolve)),
            )
            return
        login = [("proxy-authorization", upstream.authorization)] if upstream.authorization else []
        self._pool = httpcore.AsyncHTTPProxy(
            upstream.url,
            proxy_headers=login,
            ssl_context=context,
            proxy_ssl_context=context if upstream.is_tls else None,
            max_connections=None,
            max_keepalive_connections=_IDLE,
            keepalive_expiry=_IDLE_S,
            network_backend=Network(Meter(_NO_LIMIT), None),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        # Behind a proxy nobody else asks the guard.
        self._guard.target(str(request.url))
        url, limit = request.url, asyncio.timeout(None)
        sent = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=_then(cast(AsyncIterable[bytes], request.stream), limit),
            extensions=request.extensions,
        )
        place = self._place_of(request)
        await place.acquire()
        try:
            with _as_httpx(request):
                async with limit:
                    _restart(limit)
                    answer = await self._pool.handle_async_request(sent)
        except TimeoutError as error:
            place.release()
            raise httpx.ReadTimeout(f"no answer within {HEAD_S:g} s", request=request) from error
        except BaseException:
            place.release()
            raise
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Stream(answer, request, place),
            extensions=cast(Mapping[str, object], answer.extensions),
        )

    async def aclose(self) -> None:
        await self._pool.aclose()

    def _place_of(self, request: httpx.Request) -> asyncio.Semaphore:
        """First come, first served: a download gives its place to another after each of its parts."""
        charged = request.extensions.get(_CHARGED) or Charged(request.url.netloc.decode("ascii"))
        place = self._places.get(charged)
        if place is None:
            # Kept by those who have it or wait for it.
            place = self._places[charged] = asyncio.Semaphore(CONNECTIONS)
        return place


async def _then(pieces: AsyncIterable[bytes], limit: asyncio.Timeout) -> AsyncIterator[bytes]:
    """A request's body. `limit` runs before and after it: what is sent may take as long as it goes on."""
    if not limit.expired():
        limit.reschedule(None)
    async for piece in pieces:
        yield piece
    _restart(limit)


def _restart(limit: asyncio.Timeout) -> None:
    if not limit.expired():  # it may have a moment ago, and the task hears of it at its next pause
        limit.reschedule(asyncio.get_running_loop().time() + HEAD_S)


class _Wide(Network):
    """Reads as much at once as the socket has."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _WideStream(await super().connect_tcp(host, port, timeout, local_address, socket_options))


class _WideStream(httpcore.AsyncNetworkStream):
    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._inner.read(max(max_bytes, _RECEIVED_BYTES), timeout)

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
        return _WideStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Stream(httpx.AsyncByteStream):
    """An answer's body, which is closed once and then gives its place free."""

    def __init__(self, answer: httpcore.Response, request: httpx.Request, place: asyncio.Semaphore) -> None:
        self._answer, self._request, self._place = answer, request, place

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx(self._request):
            async for piece in self._answer.aiter_stream():
                yield piece

    async def aclose(self) -> None:
        try:
            await self._answer.aclose()
        finally:
            self._place.release()


_ERRORS: Mapping[type[Exception], type[httpx.TransportError]] = {
    httpcore.TimeoutException: httpx.ReadTimeout,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ProxyError: httpx.ProxyError,
    httpcore.NetworkError: httpx.ReadError,
    httpcore.ProtocolError: httpx.RemoteProtocolError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
}


@contextmanager
def _as_httpx(request: httpx.Request) -> Generator[None]:
    try:
        yield
    except tuple(_ERRORS) as error:
        kind = next(known for cls, known in _ERRORS.items() if isinstance(error, cls))
        raise kind(str(error) or type(error).__name__, request=request) from error
