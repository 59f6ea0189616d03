"""What HTTP/1 asks of an answer, and of a request, that the server's parser and writer do not do."""

from collections.abc import Awaitable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Protocol

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class Refused(Exception):
    """What came is no request that is answered as one; `status` says why not, and the text in words."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Cycle(Protocol):
    """As much of uvicorn's `RequestResponseCycle` as decides how an answer is framed."""

    keep_alive: bool
    chunked_encoding: bool | None
    expected_content_length: int


def refusal(status: HTTPStatus, text: str) -> bytes:
    """A whole answer to bytes that never became a request; the connection ends after it."""
    body = orjson.dumps({"error": text})
    return (
        b"HTTP/1.1 %d %s\r\ncontent-type: application/json; charset=utf-8\r\n"
        b"content-length: %d\r\nconnection: close\r\n\r\n%s"
        % (status, status.phrase.encode(), len(body), body)
    )


def check_head(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse what the parser lets pass, and RFC 9112 (3.2, 6.1) does not; names are in lower case.

    Raises:
        Refused: for a second `Host`, and for a body in a coding besides chunks, which was taken for plain.
    """
    given = [*headers]
    if sum(name == b"host" for name, _ in given) > 1:
        raise Refused(HTTPStatus.BAD_REQUEST, "a request has one Host header")
    codings = b",".join(value for name, value in given if name == b"transfer-encoding").lower().split(b",")
    coded = [coding for each in codings if (coding := each.strip())]
    if coded[-1:] == [b"chunked"] and len(coded) > 1:
        raise Refused(HTTPStatus.NOT_IMPLEMENTED, "Transfer-Encoding: chunked is the only coding known here")


def framing_head(version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A head that says of a body what `headers` (names in lower case) say, and nothing else."""
    framing = [b"%s: %s\r\n" % (name, value) for name, value in headers if name in _FRAMING]
    return b"POST / HTTP/%s\r\n%s\r\n" % (version.encode(), b"".join(framing))


def is_old(scope: Mapping[str, Any]) -> bool:
    """Whether the client speaks HTTP/1.0, which knows no chunks, or less."""
    version: str = scope["http_version"]
    return version < "1.1"


def unchunked(app: ASGIApp, cycle: Cycle) -> ASGIApp:
    """`app` for a client of HTTP/1.0: an answer of unknown length ends with the connection."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, _Unchunked(cycle, send, keeps=_asks_to_stay(scope["headers"])))

    return answer


class _Unchunked:
    """A `send` that frames the answer through what `cycle` believes of it."""

    __slots__ = ("_cycle", "_keeps", "_send", "_unbounded")

    def __init__(self, cycle: Cycle, send: Send, *, keeps: bool) -> None:
        self._cycle = cycle
        self._send = send
        self._keeps = keeps
        self._unbounded = False

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            message = self._begin(message)
        elif self._unbounded:
            # uvicorn holds what is not chunked against a length: each frame is as long as it is.
            self._cycle.expected_content_length = len(message.get("body", b""))
        return self._send(message)

    def _begin(self, message: Message) -> Message:
        given = {name.lower(): value for name, value in message.get("headers", ())}
        if b"content-length" not in given:
            self._unbounded = True
            self._cycle.chunked_encoding = False
        elif self._keeps and b"connection" not in given:
            self._cycle.keep_alive = True
            return {**message, "headers": [*message["headers"], (b"connection", b"keep-alive")]}
        return message


def _asks_to_stay(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    values = b",".join(value for name, value in headers if name == b"connection")
    tokens = {token.strip() for token in values.lower().split(b",")}
    return b"keep-alive" in tokens and b"close" not in tokens
