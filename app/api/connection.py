"""uvicorn's connection with an end to the time that the head of a request may take to arrive.

uvicorn closes a connection that is idle between two requests, but waits for ever for the first one and for
the rest of a head that has begun.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.ollama.wire import dumps

_BODY = dumps({"error": "the head of the request did not arrive in time"})
_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(_BODY), _BODY)
)


class Connection(HttpToolsProtocol):
    """`headers_timeout_s` is set by `connection_class`. A head costs a timer only if it comes in pieces."""

    headers_timeout_s: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._within_head = False
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._timer is None and self._waits_for_head():
            self._arm()

    def on_message_begin(self) -> None:
        self._within_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._within_head = False
        self._disarm()
        super().on_headers_complete()

    def _waits_for_head(self) -> bool:
        """Nothing is being answered, and uvicorn's own timer for idle connections does not run."""
        # uvicorn's annotation leaves out that there is no cycle before the first request.
        if self.cycle is not None and not self.cycle.response_complete:  # pyright: ignore[reportUnnecessaryComparison]
            return False
        return self.timeout_keep_alive_task is None and not self.transport.is_closing()

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self.headers_timeout_s, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._within_head:
            self.transport.write(_LATE)
        self.transport.close()


def connection_class(headers_timeout_s: float) -> type[asyncio.Protocol]:
    """The class of a server's connections, which uvicorn makes itself."""
    values: dict[str, Any] = {"headers_timeout_s": headers_timeout_s}
    return type("Connection", (Connection,), values)
