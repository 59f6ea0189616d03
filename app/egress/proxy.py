"""The proxy by which a browser reaches the network, so that each of its connections is checked and pinned.

It serves CONNECT and requests in absolute form (RFC 9112, 3.2), one to a connection, to whoever has the
credential of a page that is open.
"""

import asyncio
import hmac
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus

from app.core.errors import AddressRefused, FetchFailed, Overloaded
from app.egress.access import PageAccess, PageLimits
from app.egress.dialer import Resolve
from app.egress.guard import Guard
from app.egress.target import read_host, read_target
from app.egress.tunnel import HEAD_BYTES, Streams, Tunnels, ended, read_head
from app.egress.upstream import Upstream

REFUSED = "x-caravan-egress"
"""Marks the proxy's own answers with their reason, `address` or `failed`: a browser shows them as pages."""
_HEAD_S = 10.0
_CONNECT_S = 15.0
_MOST_OPEN = 1_024
_PIECE_BYTES = 64 << 10
_PORT = re.compile(r"(.+):([0-9]{1,5})")
# Those of one connection only (RFC 9110, 7.6.1); an offer to upgrade is not passed on.
_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "proxy-authenticate",
        "upgrade",
        REFUSED,
    }
)


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    headers: Sequence[tuple[str, str]]

    def header(self, name: str) -> str:
        return next((value for each, value in self.headers if each.lower() == name), "")


class EgressProxy:
    """Listens while it is entered, on `host` and `port` (0: any that is free).

    `on_refused` hears the host of each connection that was refused.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        resolve: Resolve | None = None,
        upstream: Upstream | None = None,
        on_refused: Callable[[str], None] = lambda _: None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._tunnels = Tunnels(guard, resolve=resolve, upstream=upstream)
        self._on_refused = on_refused
        self._host, self._port = host, port
        self._pages: dict[str, PageAccess] = {}
        self._tasks = set[asyncio.Task[None]]()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """Where a browser finds it, without a credential."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def __aenter__(self) -> "EgressProxy":
        self._server = await asyncio.start_server(self._accept, self._host, self._port, limit=HEAD_BYTES)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    @asynccontextmanager
    async def page(self, limits: PageLimits) -> AsyncGenerator[PageAccess]:
        """A credential that is good until this is left, which ends all that the page has open."""
        access = PageAccess(limits)
        self._pages[access.username] = access
        ending = asyncio.get_running_loop().call_later(limits.time_s, self._expire, access)
        try:
            yield access
        finally:
            ending.cancel()
            self._pages.pop(access.username, None)
            await access.closed()

    def _expire(self, access: PageAccess) -> None:
        self._pages.pop(access.username, None)
        access.exhaust()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # asyncio would log as a failure that a connection's task was cancelled.
        with suppress(OSError, EOFError, asyncio.CancelledError), ended(writer):
            if len(self._tasks) <= _MOST_OPEN:
                await self._serve((reader, writer), task)

    async def _serve(self, browser: Streams, task: asyncio.Task[None]) -> None:
        async with asyncio.timeout(_HEAD_S):
            try:
                request = _read(await read_head(browser[0]))
            except ValueError:
                return await _answer(browser, HTTPStatus.BAD_REQUEST)
        access = self._access(request.header("proxy-authorization"))
        if access is None:
            return await _answer(browser, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)
        if not access.enter(task):
            return await _answer(browser, HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            await self._pass_on(request, browser, access)
        except AddressRefused:
            host = _host_of(request)
            access.refuse(host)
            self._on_refused(host)
            await _answer(browser, HTTPStatus.FORBIDDEN, "address")
        except (FetchFailed, TimeoutError, EOFError, ValueError):
            await _answer(browser, HTTPStatus.BAD_GATEWAY)
        except Overloaded:
            await _answer(browser, HTTPStatus.SERVICE_UNAVAILABLE)

    def _access(self, authorization: str) -> PageAccess | None:
        """The page that has this credential; each is compared in the same time whatever is wrong with it."""
        given = authorization.encode()
        known = ((page, page.authorization.encode()) for page in self._pages.values())
        return next((page for page, its in known if hmac.compare_digest(its, given)), None)

    async def _pass_on(self, request: _Request, browser: Streams, access: PageAccess) -> None:
        if request.method == "CONNECT":
            host, port = _authority(request.target)
            async with asyncio.timeout(_CONNECT_S):
                remote = await self._tunnels.open(host, port)
            with ended(remote[1]):
                browser[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await _carry(browser, remote, access)
            return
        await self._forward(request, browser, access)

    async def _forward(self, request: _Request, browser: Streams, access: PageAccess) -> None:
        """One request and its answer, after which both connections end.

        A browser sends the next request to whatever host on a connection that stays open: `Connection: close`
        in the answer keeps it, and the credential, from the server of this one.
        """
        target = read_target(request.target)
        if target.scheme != "http":
            raise ValueError("only http comes in absolute form")
        upstream = self._tunnels.upstream
        headers = [(name, value) for name, value in request.headers if name.lower() not in {*_HOP, "host"}]
        headers += [("Host", target.netloc), ("Connection", "close")]
        async with asyncio.timeout(_CONNECT_S):
            if upstream is None:
                remote = await self._tunnels.open(target.host, target.port)
            else:
                remote = await self._tunnels.open_upstream(target.host, target.port)
                headers += [("Proxy-Authorization", upstream.authorization)] if upstream.authorization else []
        path = target.path if upstream is None else target.url
        with ended(remote[1]):
            head = _head(f"{request.method} {path} HTTP/1.1", headers)
            remote[1].write(head)
            access.sent(len(head))
            sending = asyncio.create_task(_copy(browser[0], remote[1], access.sent))
            try:
                await _answer_head(remote[0], browser[1], access)
                await _copy(remote[0], browser[1], access.received)
            finally:
                sending.cancel()
                await asyncio.wait([sending])


async def _answer_head(
    remote: asyncio.StreamReader, browser: asyncio.StreamWriter, access: PageAccess
) -> None:
    """The head of the answer; of interim answers none is passed on."""
    while True:
        raw = await read_head(remote)
        access.received(len(raw))
        start, *lines = raw.decode("latin-1").split("\r\n")
        status = start.split(" ", 2)[1:2]
        if not start.startswith("HTTP/1.") or not status or not status[0].isdecimal():
            raise ValueError("no HTTP answer")
        if not status[0].startswith("1"):
            break
    kept = [line for line in lines if line and line.partition(":")[0].strip().lower() not in _HOP]
    browser.write("\r\n".join([start, *kept, "Connection: close", "", ""]).encode("latin-1"))


async def _carry(browser: Streams, remote: Streams, access: PageAccess) -> None:
    """Both directions, until both have ended or one has failed."""
    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(browser[0], remote[1], access.sent))
            group.create_task(_copy(remote[0], browser[1], access.received))


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None]
) -> None:
    while piece := await reader.read(_PIECE_BYTES):
        count(len(piece))
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _read(head: bytes) -> _Request:
    """Raises: ValueError: for what is no head of an HTTP/1 request."""
    start, *lines = head.decode("latin-1").split("\r\n")
    method, target, version = start.split(" ")
    if not method.isalpha() or not version.startswith("HTTP/1."):
        raise ValueError("not HTTP/1")
    headers: list[tuple[str, str]] = []
    for line in filter(None, lines):
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or "\n" in line or "\r" in line or "\0" in line:
            raise ValueError("not a header")
        headers.append((name, value.strip()))
    return _Request(method, target, headers)


def _authority(target: str) -> tuple[str, int]:
    """Raises: AddressRefused, ValueError: for what is no host and port."""
    found = _PORT.fullmatch(target)
    if found is None or not 0 < int(found[2]) < 65536:
        raise ValueError("no host and port")
    host = found[1]
    return read_host(host[1:-1] if host.startswith("[") and host.endswith("]") else host), int(found[2])


def _host_of(request: _Request) -> str:
    """The host that was asked for, as it was written; for books only."""
    authority = request.target.partition("://")[2].partition("/")[0] or request.target
    return re.sub(r"[^!-~]", "?", authority.rpartition("@")[2][:253])


def _head(start: str, headers: Sequence[tuple[str, str]]) -> bytes:
    lines = [start, *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def _answer(browser: Streams, status: HTTPStatus, reason: str = "failed") -> None:
    asks = 'Proxy-Authenticate: Basic realm="page"\r\n' if status == 407 else ""
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\n{asks}{REFUSED}: {reason}\r\n"
    head += "Content-Length: 0\r\nConnection: close\r\n\r\n"
    browser[1].write(head.encode())
    await browser[1].drain()
