"""The layer that keeps each key within its limits: behind the keys, before anything of the body is read."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.context import context_of
from app.api.refusal import Refusal
from app.core.context import RequestContext
from app.core.errors import LimitsUnknown, RateLimited


class Limits(Protocol):
    """`Limiter`, or that of another process."""

    def admit(self, ctx: RequestContext) -> AbstractAsyncContextManager[None]: ...


class Quota:
    """Body frames of a reply pass beside it (`RawSend`), so a token costs nothing here."""

    def __init__(self, app: ASGIApp, limiter: Limits) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with self._limiter.admit(context_of(scope)):
                await self._app(scope, receive, send)
        except (RateLimited, LimitsUnknown) as error:
            await Refusal(error)(scope, receive, send)
