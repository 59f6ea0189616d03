"""uvicorn's connection, bounded in time, in what stands around a body and in what is left unread.

uvicorn itself knows no bound of a head, of trailers or of requests sent ahead, waits forever for a head and
for a client that does not read, and takes the body of a request that offers an upgrade for something else.
"""

import asyncio
import fcntl
import logging
import math
import socket
import struct
import sys
import termios
from http import HTTPStatus
from typing import Any, Literal

import httptools
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api import http1
from app.api.context import ENDED
from app.core.limits import InputLimits

_SLICE_BYTES = 8 << 10
"""What the parser is given at once. It cannot be stopped: so many bytes of requests sent ahead are parsed."""

_LINGER_S = 2.0
"""How long a client that still sends may take to read its answer: closed at once, the connection would be
reset, and a reset discards what the client has not read."""

_CHECKS = 4
"""How often within the time for sending its progress is looked at."""

_log = logging.getLogger(__name__)


class HeadTooLarge(http1.Refused):
    """A head, or what stands around the data of a body, is over its limit."""

    def __init__(self, text: str) -> None:
        super().__init__(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)


class SendTimeout(Exception):
    """The client took nothing of its answer for too long."""


class Connection(HttpToolsProtocol):
    """The limits are set by `connection_class`. A head costs a timer only if it comes in pieces."""

    headers_timeout_s: float
    send_timeout_s: float
    head_bytes: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._part: Literal["", "head", "body"] = ""
        self._active: RequestResponseCycle | None = None
        self._ahead = bytearray()
        self._deaf = False
        self._muted = False
        self._advanced = False
        self._open_bytes = self._field_bytes = 0
        self._unsent_bytes = self._stalls = 0
        self._timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._way_out = _WayOut(self)
        self._arm(self.headers_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._stop_watching()
        super().connection_lost(exc)

    # What comes in.

    @property
    def reads(self) -> bool:
        """Whether anything more is taken of this client."""
        return not self._deaf

    @property
    def waiting_bytes(self) -> int:
        """What was read of requests that are not parsed yet."""
        return len(self._ahead)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        if self.pipeline:
            # Whoever waits for the end of a request lets the reading go on, though others are queued already.
            self._ahead += data
            self.flow.pause_reading()
            return
        self._read(memoryview(data))
        if self._timer is None and self._waits_for_head():
            self._arm(self.headers_timeout_s)

    def _read(self, view: memoryview) -> None:
        """Parse until requests are queued: what follows these waits unparsed, and no more is read."""
        while view and not self.pipeline and not self._deaf:
            self._feed(view[:_SLICE_BYTES])
            view = view[_SLICE_BYTES:]
        if view and not self._deaf:
            self._ahead += view
            self.flow.pause_reading()

    def _feed(self, part: memoryview) -> None:
        self._advanced = False
        try:
            self._parse(part)
            self._open_bytes = 0 if self._advanced or not self._part else self._open_bytes + len(part)
            self._check_size(self._open_bytes)
        except http1.Refused as error:
            self._refuse(error.status, error)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, http1.Refused):
                self._refuse(error.__context__.status, error.__context__)
            else:
                self._refuse(HTTPStatus.BAD_REQUEST, ValueError("this is not a valid HTTP request"))

    def _parse(self, part: memoryview) -> None:
        while part:
            try:
                self.parser.feed_data(part)
            except httptools.HttpParserUpgrade as offer:
                part = part[offer.args[0] :]
                self._decline_upgrade()
            else:
                return

    def _decline_upgrade(self) -> None:
        """Go on with the body of a request whose head has just been parsed.

        llhttp takes what follows an offer to upgrade for the new protocol, and cannot be told otherwise: a
        new parser is told of the body by a head without the offer.
        """
        version = self.parser.get_http_version()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
        self._muted = True
        try:
            self.parser.feed_data(http1.framing_head(version, self.headers))
        finally:
            self._muted = False

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self.head_bytes:
            what = "the request's head is" if self._part == "head" else "trailers or chunk extensions are"
            raise HeadTooLarge(f"{what} too large: the limit is {self.head_bytes:.0f} bytes")

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._muted:
            return
        self._part, self._advanced, self._field_bytes = "head", True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._muted:
            return
        self._field_bytes += len(url)
        self._check_size(self._field_bytes)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._muted:
            return
        self._field_bytes += len(name) + len(value) + len(": \r\n")
        self._check_size(self._field_bytes)
        if self._part == "head":  # a trailer is no header: it comes after all that headers decide
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._muted:
            return
        http1.check_head(self.headers)
        self._part, self._advanced, self._field_bytes = "body", True, 0
        self._disarm()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # what llhttp says of an offer: the body is still to come
        self._part, self._advanced = "", True
        if self.cycle.response_complete:
            self._disarm()  # the time for what was left of this body
        super().on_message_complete()

    # Requests and their ends.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        cycle.transport = self._way_out  # type: ignore[assignment]
        asgi: ASGIApp = app
        super()._start_asgi_task(cycle, http1.unchunked(asgi, cycle) if http1.is_old(cycle.scope) else app)  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._ahead and not self.pipeline and not self.transport.is_closing():
            ahead, self._ahead = self._ahead, bytearray()
            self.data_received(bytes(ahead))

    def _refuse(self, status: HTTPStatus, error: Exception) -> None:
        """Read no more of this client, and say why unless an answer is under way, which ends first."""
        self._stop_reading()
        active = self._active
        if active is not None and not active.response_complete:
            if self._part != "body" or self.cycle is not active:
                active.keep_alive = False
                return
            self._abandon(active, error)
            if active.response_started:
                self._reset()
                return
        self.transport.write(http1.refusal(status, str(error)))
        self.linger()

    def _abandon(self, cycle: RequestResponseCycle, error: Exception) -> None:
        """End a request as if its client had left."""
        cycle.scope["state"][ENDED] = error  # type: ignore[typeddict-item]
        cycle.disconnected = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()

    def _stop_reading(self) -> None:
        self._deaf = True
        self._ahead.clear()
        self.pipeline.clear()
        self._disarm()

    def close(self) -> None:
        """Close after an answer, of which a client that still sends its request must be able to read."""
        active = self._active
        if active is not None and not active.response_complete and http1.is_old(active.scope):
            self._reset()  # a close would be the end of a whole answer
        elif self._deaf or (active is not None and active.more_body):
            self.linger()
        else:
            self.transport.close()
            self._watch_sending()

    def _reset(self) -> None:
        """Break the connection, so that no answer looks whole and the kernel keeps nothing of it."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def linger(self) -> None:
        if self.transport.is_closing():
            return
        self._stop_reading()
        self.flow.resume_reading()
        self.transport.write_eof()
        self._arm(_LINGER_S)

    # Time.

    def _waits_for_head(self) -> bool:
        """Nothing is being answered, and uvicorn's own timer for idle connections does not run."""
        # uvicorn's annotation leaves out that there is no cycle before the first request.
        if self.cycle is not None and not self.cycle.response_complete:  # pyright: ignore[reportUnnecessaryComparison]
            return False
        return self.timeout_keep_alive_task is None and not self.transport.is_closing()

    def _arm(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._part == "head" and not self._deaf:
            late = TimeoutError("the head of the request did not arrive in time")
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, late)
        else:
            self.timeout_keep_alive_handler()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_sending()

    # What goes out. Nothing is written while writing is paused or once the transport closes: what is
    # unsent can only shrink then, and has shrunk where the client has read.

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_watching()

    def _watch_sending(self) -> None:
        if self._send_timer is None and math.isfinite(self.send_timeout_s):
            self._unsent_bytes, self._stalls = self._unread_bytes(), 0
            self._check_later()

    def _check_later(self) -> None:
        self._send_timer = self.loop.call_later(self.send_timeout_s / _CHECKS, self._check_sending)

    def _check_sending(self) -> None:
        self._send_timer = None
        if not self.transport.get_write_buffer_size():
            return  # the kernel has it all, and ends what its peer never takes
        unsent_bytes = self._unread_bytes()
        self._stalls = self._stalls + 1 if unsent_bytes >= self._unsent_bytes else 0
        self._unsent_bytes = unsent_bytes
        if self._stalls < _CHECKS:
            self._check_later()
            return
        error = SendTimeout(f"the client took nothing of its answer for {self.send_timeout_s:g} seconds")
        _log.warning("%s: the connection is ended with %d bytes unsent", error, unsent_bytes)
        if self._active is not None and not self._active.response_complete:
            self._abandon(self._active, error)
        self._reset()

    def _unread_bytes(self) -> int:
        """What the other side has not acknowledged. The kernel takes a third of its buffer at a time, so what
        is left here alone does not shrink for a long time under a slow reader."""
        file = self.transport.get_extra_info("socket").fileno()
        if file < 0:
            return 0  # The client has reset the connection, and the transport has closed its socket.
        queued = fcntl.ioctl(file, termios.TIOCOUTQ, bytes(4))
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def _stop_watching(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None


class _WayOut:
    """The transport as a request's cycle knows it: its close is the connection's own."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, connection: Connection) -> None:
        self.close = connection.close
        self.is_closing = connection.transport.is_closing
        self.write = connection.transport.write


def connection_class(
    headers_timeout_s: float,
    *,
    send_timeout_s: float = math.inf,
    head_bytes: int = InputLimits().head_bytes,
) -> type[asyncio.Protocol]:
    """The class of a server's connections, which uvicorn makes itself. 0 bytes are no limit."""
    values: dict[str, Any] = {
        "headers_timeout_s": headers_timeout_s,
        "send_timeout_s": send_timeout_s,
        "head_bytes": head_bytes or math.inf,
    }
    return type("Connection", (Connection,), values)
