"""The edge of a request: its `Call` is made here, the stages fill it in, and here it is reported at the end.

Body frames of a reply pass beside this layer (`RawSend` is around it), so a token costs nothing here.
"""

import re
import secrets
import time
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.call import Call
from app.core.errors import AppError
from app.telemetry.report import Telemetry

CALL = "caravan.call"
"""Where the scope holds the request's `Call`."""

ENDED = "caravan.ended"
"""Where the scope's `state` holds the error for which the connection has ended the request itself."""

REQUEST_ID = b"x-request-id"
_SANE_ID = re.compile(rb"[A-Za-z0-9._:=+/@-]{1,128}")
_TRACE_HEADERS = (b"traceparent", b"tracestate")


class Calls:
    """Makes the `Call` of each request and hands it to `telemetry` at both ends."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _call(scope)
        self._telemetry.begin(call)
        try:
            await self._app({**scope, CALL: call}, receive, _Answer(call, send))
        except BaseException as error:
            call.failure = call.failure or type(error).__name__
            raise
        finally:
            call.duration_ns = time.monotonic_ns() - call.arrived_ns
            if error := scope.get("state", {}).get(ENDED):
                call.failure, call.error = type(error).__name__, str(error)
            self._telemetry.end(call)


class _Answer:
    """A `send` that notes the status and the end, and adds the request's id."""

    __slots__ = ("_call", "_send")

    def __init__(self, call: Call, send: Send) -> None:
        self._call = call
        self._send = send

    def __call__(self, message: Message) -> Awaitable[None]:
        call = self._call
        if message["type"] == "http.response.start":
            call.status = int(message["status"])  # an enumeration of HTTP would count apart from a number
            added = (REQUEST_ID, call.request_id.encode())
            message = {**message, "headers": [*message.get("headers", ()), added]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            call.answered = True
        return self._send(message)


def call_of(scope: Scope) -> Call:
    """The `Call` of a request; a new one where no layer has made it."""
    if (call := scope.get(CALL)) is None:
        call = scope[CALL] = Call()
    return call


def note_failure(scope: Scope, error: Exception, text: str) -> None:
    """Keep what went wrong for the report. `text` is what the client reads of it."""
    call = call_of(scope)
    call.failure = type(error).__name__
    call.error = text
    if isinstance(error, AppError):
        call.rejection = error.rejection


def _call(scope: Scope) -> Call:
    given = b""
    trace: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name in _TRACE_HEADERS:
            trace[name.decode()] = value.decode("latin-1")
        elif name == REQUEST_ID:
            given = value
    request_id = given.decode() if _SANE_ID.fullmatch(given) else secrets.token_hex(16)
    return Call(request_id=request_id, trace=trace, method=scope["method"], path=scope["path"])
