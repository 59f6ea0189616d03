"""Hands requests on to another process of this server, over a Unix socket, and its answers back."""

import asyncio
import logging
from collections.abc import AsyncGenerator

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.refusal import Refusal
from app.core.errors import Draining

_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
    }
)
"""What a message's next hop alone is told (RFC 9110, 7.6.1)."""
_LENGTHS = frozenset({b"content-length", b"transfer-encoding"})
_log = logging.getLogger(__name__)


class Relay:
    """The layer around a worker's app: `POST` requests to `paths` stay, and all others go to `socket`."""

    def __init__(self, app: ASGIApp, socket: str, paths: frozenset[str]) -> None:
        self._app = app
        self._paths = paths
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=socket, limits=limits), timeout=None, trust_env=False
        )
        self._client.headers.clear()  # The other process is to see what the client has sent, and no more.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "POST" and scope["path"] in self._paths):
            await self._app(scope, receive, send)
            return
        body = _Body(receive, any(name in _LENGTHS for name, _ in scope["headers"]))
        handing_on = asyncio.ensure_future(self._hand_on(scope, body, send))
        leaving = asyncio.ensure_future(body.left())
        try:
            await asyncio.wait({handing_on, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if handing_on.done():
                handing_on.result()
        finally:
            for task in (handing_on, leaving):
                task.cancel()
            await asyncio.gather(handing_on, leaving, return_exceptions=True)

    async def _hand_on(self, scope: Scope, body: "_Body", send: Send) -> None:
        request = self._client.build_request(
            scope["method"],
            httpx.URL(scheme="http", host="server", raw_path=_target(scope)),
            headers=[(name, value) for name, value in scope["headers"] if name not in _HOP],
            content=body.chunks() if body.is_there else None,
        )
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.TransportError:
            _log.warning("the process that has the engines does not answer")
            await Refusal(Draining())(scope, body.receive, send)
            return
        try:
            kept = [(name.lower(), value) for name, value in answer.headers.raw if name.lower() not in _HOP]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
            async for chunk in answer.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()


def _target(scope: Scope) -> bytes:
    """What stands in the first line of a request."""
    query: bytes = scope["query_string"]
    return scope["raw_path"] + (b"?" + query if query else b"")


class _Body:
    """What a client sends, and whether it has left."""

    def __init__(self, receive: Receive, is_there: bool) -> None:
        self.receive, self.is_there = receive, is_there
        self._read = asyncio.Event()
        self._left = asyncio.Event()
        if not is_there:
            self._read.set()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        while not self._left.is_set():
            message = await self.receive()
            if message["type"] != "http.request":
                self._left.set()
                break
            yield message.get("body", b"")
            if not message.get("more_body", False):
                self._read.set()
                return
        await asyncio.get_running_loop().create_future()  # Until the request is given up.

    async def left(self) -> None:
        """Return once the client has gone; its answer is of no use any more."""
        whole, gone = asyncio.ensure_future(self._read.wait()), asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait({whole, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            whole.cancel()
            gone.cancel()
        while not self._left.is_set():
            if (await self.receive())["type"] == "http.disconnect":
                return
