"""The edge of the server: routing, CORS, the Host guard and the last resort for a failure.

It stands around every route and behaves as docs/reference 1.2 to 1.4 say. What is not routed never reaches
the application.
"""

import logging
import posixpath
from collections.abc import Awaitable, Iterable
from html import escape
from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import quote

from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.context import context_of
from app.api.errors import HANDLED
from app.api.hosts import host_of, is_local_address, is_local_name
from app.api.origins import Origins
from app.api.refusal import Refusal, handle
from app.api.routing import RouteTable

logger = logging.getLogger(__name__)

Headers: TypeAlias = list[tuple[bytes, bytes]]

METHOD_ORDER = ("HEAD", "GET", "POST", "DELETE")
"""The order in which Ollama registers its methods, and so lists them in `Allow`."""

ALLOW_METHODS = b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
ALLOW_HEADERS = (
    b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    b"X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
    b"X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
    b"X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout,X-Api-Key,Anthropic-Version,Anthropic-Beta,"
    b"Anthropic-Dangerous-Direct-Browser-Access"
)
"""Ollama's, and those that clients of Anthropic's API send besides."""
MAX_AGE_S = b"43200"

_URL_SAFE = "/:@!$&'()*+,;=~"


def install(app: FastAPI, *, origins: Iterable[str] = (), loopback: bool) -> None:
    """Put the transport around what `app` has so far, and teach `app` how failures look.

    `origins` are added to those always allowed; a bad one is a `ValueError`. `loopback` tells that the
    server is bound to a loopback address, where the Host guard applies.
    """
    for error in HANDLED:
        app.add_exception_handler(error, handle)
    app.add_middleware(Transport, routes=app.routes, origins=Origins(origins), loopback=loopback)


class Transport:
    """The ASGI class that `install` adds. `routes` are read when the application starts."""

    def __init__(
        self, app: ASGIApp, *, routes: Iterable[BaseRoute], origins: Origins, loopback: bool
    ) -> None:
        self._app = app
        self._routes = RouteTable(routes)
        self._origins = origins
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context_of(scope).route = self._routes.template(scope["path"])
        start = _Start(send)
        if _header(scope, b"expect").lower() == "100-continue":
            receive = start.watching(receive)
        try:
            await self._choose(scope, start.headers)(scope, receive, start)
        except ClientDisconnect:
            logger.debug("the client left before its request was whole")
        except Exception as error:
            if start.gone:
                raise  # the server logs it and breaks the connection: the client must not take it for an end
            logger.exception("%s %r failed", scope["method"], scope["path"])
            await Refusal(error)(scope, receive, start)

    def _choose(self, scope: Scope, added: Headers) -> ASGIApp:
        """What answers this request; the headers that its answer needs besides go to `added`."""
        if moved := _moved_to_clean_path(scope):
            return moved
        methods = self._routes.methods(scope["path"])
        if scope["method"] in methods:
            return self._gate(scope, added) or self._app
        if moved := self._moved_off_slash(scope):
            return moved
        if methods:
            added.append((b"allow", ", ".join(sorted(methods, key=_method_rank)).encode()))
            return self._gate(scope, added) or _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        return self._gate(scope, added) or _plain(HTTPStatus.NOT_FOUND)

    def _moved_off_slash(self, scope: Scope) -> Response | None:
        path = scope["path"].removesuffix("/")
        if path == scope["path"] or scope["method"] not in self._routes.methods(path):
            return None
        get = scope["method"] == "GET"
        status = HTTPStatus.MOVED_PERMANENTLY if get else HTTPStatus.TEMPORARY_REDIRECT
        return _redirect(scope, quote(path, safe=_URL_SAFE), status)

    def _gate(self, scope: Scope, added: Headers) -> Response | None:
        """The answer of CORS or, after it, of the Host guard; None lets the request through."""
        origin, host = _header(scope, b"origin"), _header(scope, b"host")
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            grant = self._origins.grant(origin)
            if grant is None:
                return _forbidden(scope, "origin")
            preflight = scope["method"] == "OPTIONS"
            added += _cors_headers(grant, preflight=preflight)
            if preflight:
                return Response(status_code=HTTPStatus.NO_CONTENT)
        return self._guard(scope, host_of(host)) if self._loopback else None

    def _guard(self, scope: Scope, host: str) -> Response | None:
        if is_local_name(host):
            return Response(status_code=HTTPStatus.NO_CONTENT) if scope["method"] == "OPTIONS" else None
        return None if is_local_address(host) else _forbidden(scope, "host")


class _Start:
    """A `send` that adds headers to the response start and knows that it has gone.

    Later messages are handed on as they are, without a coroutine of its own.
    """

    __slots__ = ("_send", "_unasked", "gone", "headers")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._unasked = False
        self.gone = False
        self.headers: Headers = []

    def __call__(self, message: Message) -> Awaitable[None]:
        if not self.gone and message["type"] == "http.response.start":
            self.gone = True
            if self._unasked:
                self.headers.append((b"connection", b"close"))
            if self.headers:
                message = {**message, "headers": [*message.get("headers", ()), *self.headers]}
        return self._send(message)

    def watching(self, receive: Receive) -> Receive:
        """`receive` of a client that waits for `100 Continue`, which the server says at the first call.

        Answered without it, the client need not send the body it announced, and its next request would
        be read as that body: the connection must end with the answer.
        """
        self._unasked = True

        def asking() -> Awaitable[Message]:
            self._unasked = False
            return receive()

        return asking


def _cors_headers(grant: str, *, preflight: bool) -> Headers:
    headers: Headers = [(b"access-control-allow-origin", grant.encode("latin-1"))]
    vary = [] if grant == "*" else [b"Origin"]
    if preflight:
        headers += [
            (b"access-control-allow-methods", ALLOW_METHODS),
            (b"access-control-allow-headers", ALLOW_HEADERS),
            (b"access-control-max-age", MAX_AGE_S),
        ]
        if vary:
            vary += [b"Access-Control-Request-Method", b"Access-Control-Request-Headers"]
    return headers + [(b"vary", value) for value in vary]


def _moved_to_clean_path(scope: Scope) -> Response | None:
    """Where the path has empty, `.` or `..` segments, the way to the path without them."""
    raw: str = scope["raw_path"].decode("latin-1")
    if "//" not in raw and "/." not in raw:
        return None
    clean = posixpath.normpath("/" + raw.lstrip("/"))
    if raw.endswith("/") and clean != "/":
        clean += "/"
    if clean == raw:
        return None
    location = quote(clean, safe=_URL_SAFE + "%", encoding="latin-1")
    return _redirect(scope, location, HTTPStatus.TEMPORARY_REDIRECT)


def _redirect(scope: Scope, location: str, status: HTTPStatus) -> Response:
    if query := scope["query_string"].decode("latin-1"):
        location += f"?{query}"
    headers = {"location": location}
    if scope["method"] not in ("GET", "HEAD"):
        return Response(status_code=status, headers=headers)
    headers["content-type"] = "text/html; charset=utf-8"
    return Response(f'<a href="{escape(location)}">{status.phrase}</a>.\n\n', status, headers)


def _forbidden(scope: Scope, what: str) -> Response:
    context_of(scope).rejection = what
    return Response(status_code=HTTPStatus.FORBIDDEN)


def _plain(status: HTTPStatus) -> Response:
    text = "404 page not found" if status is HTTPStatus.NOT_FOUND else "405 method not allowed"
    return Response(text, status, {"content-type": "text/plain"})


def _method_rank(method: str) -> tuple[int, str]:
    known = METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER)
    return known, method


def _header(scope: Scope, name: bytes) -> str:
    """The first value of a header, or an empty text."""
    value: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return value.decode("latin-1")
