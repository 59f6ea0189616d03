"""The edge of a request: makes its `RequestContext`, which the stages fill in, and reports it at the end.

Body frames of a reply pass beside this layer (`RawSend` is around it), so a token costs nothing here.
"""

import re
import secrets
import time
from collections.abc import Awaitable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.dialect import DIALECT, Dialect, dialect_for
from app.core.context import RequestContext
from app.core.errors import AppError
from app.telemetry.report import Telemetry

CONTEXT = "caravan.context"
"""Where the scope holds the request's `RequestContext`."""

ENDED = "caravan.ended"
"""Where the scope's `state` holds the error for which the connection has ended the request itself."""

REQUEST_ID = b"x-request-id"
_SANE_ID = re.compile(rb"[A-Za-z0-9._:=+/@-]{1,128}")
_TRACE_HEADERS = (b"traceparent", b"tracestate")


class RequestContextMiddleware:
    """Makes the `RequestContext` of each request and hands it to `telemetry` at both ends."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry, dialects: Sequence[Dialect] = ()) -> None:
        self._app = app
        self._dialects = dialects
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ctx = _ctx(scope)
        self._telemetry.begin(ctx)
        try:
            await self._app(
                {**scope, CONTEXT: ctx, DIALECT: dialect_for(scope["path"], self._dialects)},
                receive,
                _Answer(ctx, send),
            )
        except BaseException as error:
            ctx.failure = ctx.failure or type(error).__name__
            raise
        finally:
            ctx.duration_ns = time.monotonic_ns() - ctx.arrived_ns
            if error := scope.get("state", {}).get(ENDED):
                ctx.failure, ctx.error = type(error).__name__, str(error)
            self._telemetry.end(ctx)


class _Answer:
    """A `send` that notes the status and the end, and adds the request's id."""

    __slots__ = ("_ctx", "_send")

    def __init__(self, ctx: RequestContext, send: Send) -> None:
        self._ctx = ctx
        self._send = send

    def __call__(self, message: Message) -> Awaitable[None]:
        ctx = self._ctx
        if message["type"] == "http.response.start":
            ctx.status = int(message["status"])  # an enumeration of HTTP would count apart from a number
            added = (REQUEST_ID, ctx.request_id.encode())
            message = {**message, "headers": [*message.get("headers", ()), added]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            ctx.answered = True
        return self._send(message)


def context_of(scope: Scope) -> RequestContext:
    """The `RequestContext` of a request; a new one where no layer has made it."""
    if (ctx := scope.get(CONTEXT)) is None:
        ctx = scope[CONTEXT] = RequestContext()
    return ctx


def note_failure(scope: Scope, error: Exception, text: str) -> None:
    """Keep what went wrong for the report. `text` is what the client reads of it."""
    ctx = context_of(scope)
    ctx.failure = type(error).__name__
    ctx.error = text
    if isinstance(error, AppError):
        ctx.rejection = error.rejection


def _ctx(scope: Scope) -> RequestContext:
    given = b""
    trace: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name in _TRACE_HEADERS:
            trace[name.decode()] = value.decode("latin-1")
        elif name == REQUEST_ID:
            given = value
    request_id = given.decode() if _SANE_ID.fullmatch(given) else secrets.token_hex(16)
    return RequestContext(request_id=request_id, trace=trace, method=scope["method"], path=scope["path"])
