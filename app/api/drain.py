"""Refuses new work while the server ends; what is under way goes on."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.refusal import Refusal
from app.core.errors import Draining
from app.runtime.lifecycle import Lifecycle

PROBES = frozenset({"/livez", "/readyz", "/startupz", "/metrics"})
"""What is answered to the end: the orchestrator's and the monitoring's own questions."""


class Drain:
    """The ASGI layer around all routes."""

    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._lifecycle.draining and scope["type"] == "http" and scope["path"] not in PROBES:
            await Refusal(Draining())(scope, receive, send)
        else:
            await self._app(scope, receive, send)
