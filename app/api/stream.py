"""Sends a reply as it is made, or whole at its end, and stops making it when the client has gone.

The status is chosen when the first line exists: until then a failure has its own status, after that it is the
last line. Events are closed, which aborts the engine's work, before the last message is sent.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import Any, Protocol, TypeAlias, TypeVar

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.context import note_failure
from app.api.deadline import within
from app.api.dialect import Answer, dialect_of
from app.api.errors import text_of
from app.core.errors import AppError
from app.core.events import Event

logger = logging.getLogger(__name__)

RAW_SEND = "caravan.send"
_NO_HEADERS: Mapping[str, str] = {}

_T = TypeVar("_T")

Events: TypeAlias = AsyncGenerator[Sequence[Event]]
"""An item is all events of one engine output: they leave in one frame."""


class Encoder(Protocol):
    """Puts one reply into the words of an API. An encoder that fed no line holds a document in `whole`."""

    media_type: str
    """Of a stream."""
    document_type: str
    """The media type of `whole`."""

    def feed(self, event: Event) -> bytes:
        """What to send for this event, if anything."""
        ...

    def collect(self, event: Event) -> None:
        """Keep this event for `whole`."""
        ...

    def whole(self) -> bytes:
        """Everything collected, as one document."""
        ...

    def error(self, error: Exception) -> bytes:
        """The end of a stream that failed after its beginning."""
        ...

    def failure(self, error: Exception, *, stream: bool) -> Answer:
        """The answer to a request that failed before; `stream` tells what it asked for."""
        ...


class RawSend:
    """The outermost ASGI layer: lets `EventResponse` hand body frames straight to the server.

    The layers between see the start and the end of a response but not these frames: they cost nothing a
    token, and may not rewrite bodies.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "extensions": {**(scope.get("extensions") or {}), RAW_SEND: send}}
        await self._app(scope, receive, send)


class EventResponse(Response):
    """Answers with what `events` say within `limit_s`, in the words of `encoder`.

    Without `stream` all of them go into one document. `headers` are those of an answer that does not fail,
    besides its content type.
    """

    def __init__(
        self,
        events: Events,
        encoder: Encoder,
        *,
        stream: bool,
        limit_s: float = math.inf,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        super().__init__()
        self._added = headers
        self._limit_s = limit_s
        self._events = events
        self._encoder = encoder
        self._stream = stream
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        frame_send: Send = (scope.get("extensions") or {}).get(RAW_SEND, send)
        last = await _while_connected(receive, self._closing(scope, send, frame_send))
        # A server may report the end of a response as a disconnect, so nobody listens any more here.
        with suppress(OSError):
            for message in last or ():
                await send(message)
        if self.background is not None:
            await self.background()

    async def _closing(self, scope: Scope, send: Send, frame_send: Send) -> list[Message]:
        async with aclosing(self._events):
            return await self._answer(scope, send, frame_send)

    async def _answer(self, scope: Scope, send: Send, frame_send: Send) -> list[Message]:
        """Send all but what is returned: the messages that end the response."""
        try:
            async with within(self._limit_s):
                if self._stream:
                    return await self._send_frames(send, frame_send)
                return await self._collect()
        except AppError as error:
            note_failure(scope, error, text_of(error))
            return self._failure(error)
        except Exception as error:
            logger.exception("A reply failed unexpectedly")
            note_failure(scope, error, text_of(error))
            return self._failure(error)

    async def _collect(self) -> list[Message]:
        async for events in self._events:
            for event in events:
                self._encoder.collect(event)
        return self._document()

    def _document(self) -> list[Message]:
        headers = {"content-type": self._encoder.document_type, **self._added}
        return _whole(Answer(HTTPStatus.OK, headers, self._encoder.whole()))

    async def _send_frames(self, send: Send, frame_send: Send) -> list[Message]:
        feed = self._encoder.feed
        async for events in self._events:
            frame = feed(events[0]) if len(events) == 1 else b"".join(map(feed, events))
            if not frame:
                continue
            try:
                if not self._begun:
                    headers = {"content-type": self._encoder.media_type, **self._added}
                    await send(_start(HTTPStatus.OK, headers))
                    self._begun = True
                await frame_send({"type": "http.response.body", "body": frame, "more_body": True})
            except OSError:
                return []
        if self._begun:
            return [_end(b"")]
        return self._document()

    def _failure(self, error: Exception) -> list[Message]:
        if self._begun:
            return [_end(self._encoder.error(error))]
        return _whole(self._encoder.failure(error, stream=self._stream))


class DocumentResponse(Response):
    """Answers with the document that `work` makes within `limit_s`; a client that leaves stops the work.

    A failure is worded by the dialect of the route; `headers` are those of an answer that does not fail.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[bytes]],
        *,
        media_type: str,
        limit_s: float = math.inf,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        super().__init__(media_type=media_type)
        self._added = headers
        self._limit_s = limit_s
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages = await _while_connected(receive, self._messages(scope))
        with suppress(OSError):
            for message in messages or ():
                await send(message)

    async def _messages(self, scope: Scope) -> list[Message]:
        try:
            async with within(self._limit_s):
                headers = {"content-type": self.media_type or "", **self._added}
                return _whole(Answer(HTTPStatus.OK, headers, await self._work()))
        except AppError as error:
            note_failure(scope, error, text_of(error))
            return _whole(dialect_of(scope).failure(error))


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T | None:
    """What `work` comes to, or None if the client goes away first, which cancels it.

    The work is a task of its own, so that a token resumes its few frames and not those of every layer above.
    """
    worker = asyncio.create_task(work)
    gone = False

    async def listen() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        worker.cancel()

    listener = asyncio.create_task(listen())
    try:
        return await worker
    except asyncio.CancelledError:
        if gone and not _is_cancelled():
            return None
        raise
    finally:
        listener.cancel()


def _is_cancelled() -> bool:
    """Whether somebody wants the current task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _start(status: int, headers: Mapping[str, str], length: int | None = None) -> Message:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    if length is not None:
        raw.append((b"content-length", b"%d" % length))
    return {"type": "http.response.start", "status": int(status), "headers": raw}


def _end(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": False}


def _whole(answer: Answer) -> list[Message]:
    status, headers, body = answer
    return [_start(status, headers, len(body)), _end(body)]
