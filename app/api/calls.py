"""The outermost layer: every request is a `Call` that the stages fill in."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.call import Call

CALL = "caravan.call"
"""Where the scope holds the request's `Call`."""


class Calls:
    """Makes the `Call` of each request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, CALL: Call()}
        await self._app(scope, receive, send)


def call_of(scope: Scope) -> Call:
    """The `Call` of a request; a new one where no layer has made it."""
    return scope.setdefault(CALL, Call())
