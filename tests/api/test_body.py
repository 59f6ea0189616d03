import asyncio
import json
import logging
import queue
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive

from app.api.body import read_body
from app.api.transport import install
from app.core.errors import BodyTimeout, BodyTooLarge
from tests.api.live import connect, read_to_end, response_of, serving

LIMIT = 100_000
SIXTY_MB = 60_000_000


class Echo:
    """An application that tells how long a body was, and notes the clients that left."""

    def __init__(self) -> None:
        self.left = queue.Queue[bool]()
        self.app = FastAPI(openapi_url=None)
        self.app.add_api_route("/api/generate", self.generate, methods=["POST"])
        self.app.add_api_route("/api/create", self.create, methods=["POST"])
        self.app.add_api_route("/api/chat", self.hurry, methods=["POST"])
        self.app.add_api_route("/api/ps", self.running, methods=["GET"])
        install(self.app, loopback=True)

    async def generate(self, request: Request) -> PlainTextResponse:
        return await self._length(request, limit_bytes=LIMIT, timeout_s=30)

    async def create(self, request: Request) -> PlainTextResponse:
        return await self._length(request, limit_bytes=SIXTY_MB, timeout_s=30)

    async def hurry(self, request: Request) -> PlainTextResponse:
        return await self._length(request, limit_bytes=LIMIT, timeout_s=0.05)

    async def running(self) -> PlainTextResponse:
        return PlainTextResponse("here")

    async def _length(self, request: Request, *, limit_bytes: int, timeout_s: float) -> PlainTextResponse:
        try:
            body = await read_body(
                request.receive,
                limit_bytes=limit_bytes,
                timeout_s=timeout_s,
                headers=request.scope["headers"],
            )
        except ClientDisconnect:
            self.left.put(True)
            raise
        return PlainTextResponse(str(len(body)))


@pytest.fixture(scope="module")
def echo() -> Echo:
    return Echo()


@pytest.fixture(scope="module")
def port(echo: Echo) -> Iterator[int]:
    with serving(echo.app) as port:
        yield port


def post(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def messages(*parts: bytes) -> Receive:
    async def receive() -> Message:
        return next(queue)

    queue: Iterator[Message] = iter(
        [
            {"type": "http.request", "body": part, "more_body": i + 1 < len(parts)}
            for i, part in enumerate(parts)
        ]
    )
    return receive


@pytest.mark.parametrize("parts", [(b"",), (b"abc",), (b"a", b"", b"bc"), (b"abc", b"")])
async def test_a_body_is_put_together_whatever_its_parts(parts: tuple[bytes, ...]) -> None:
    assert await read_body(messages(*parts), limit_bytes=3, timeout_s=1) == b"".join(parts)


async def test_a_body_over_the_limit_is_refused_as_soon_as_it_is_seen() -> None:
    async def endless() -> Message:
        return {"type": "http.request", "body": b"abc", "more_body": True}

    with pytest.raises(BodyTooLarge, match="8 bytes"):
        await read_body(endless, limit_bytes=8, timeout_s=60)


async def test_a_body_that_dribbles_for_ever_ends_at_the_deadline() -> None:
    async def dribble() -> Message:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": True}

    with pytest.raises(BodyTimeout, match=r"0\.05 seconds"):
        await read_body(dribble, limit_bytes=8, timeout_s=0.05)


async def test_an_announced_length_over_the_limit_is_refused_unread() -> None:
    async def never() -> Message:
        raise AssertionError("the body was asked for")

    headers = [(b"content-length", b"9")]
    with pytest.raises(BodyTooLarge, match="8 bytes"):
        await read_body(never, limit_bytes=8, timeout_s=1, headers=headers)


async def test_a_length_that_is_no_number_is_left_to_counting() -> None:
    body = await read_body(messages(b"abc"), limit_bytes=3, timeout_s=1, headers=[(b"content-length", b"x")])
    assert body == b"abc"


@pytest.mark.point(27)
def test_a_chunked_body_works(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(post("/api/generate", "Transfer-Encoding: chunked"))
        sock.sendall(chunked(b'{"model":', b'"m"}'))
        response, body = response_of(sock)
    assert (response.status, body) == (200, b"13")


def test_a_body_of_sixty_megabytes_arrives_whole(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(post("/api/create", f"Content-Length: {SIXTY_MB}") + bytes(SIXTY_MB))
        response, body = response_of(sock)
    assert (response.status, body) == (200, str(SIXTY_MB).encode())


@pytest.mark.parametrize("length", ["announced", "chunked"])
def test_a_client_that_sends_all_of_too_much_before_it_reads_gets_the_413(port: int, length: str) -> None:
    much = bytes(200 * LIMIT)
    with connect(port) as sock:
        if length == "chunked":
            sock.sendall(post("/api/generate", "Transfer-Encoding: chunked") + chunked(much))
        else:
            sock.sendall(post("/api/generate", f"Content-Length: {len(much)}") + much)
        response, body = response_of(sock)
        assert response.status == 413
        assert response.headers["content-type"] == "application/json; charset=utf-8"
        assert json.loads(body) == {"error": f"request body is too large: the limit is {LIMIT} bytes"}
        sock.sendall(b"GET /api/ps HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert response_of(sock)[1] == b"here"


def test_a_client_gets_the_413_before_it_has_sent_what_it_announced(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(post("/api/generate", f"Content-Length: {LIMIT + 1}"))
        response, _ = response_of(sock)
    assert response.status == 413


def test_a_client_that_waits_to_be_asked_for_too_much_is_refused_and_let_go(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(post("/api/generate", f"Content-Length: {LIMIT + 1}", "Expect: 100-continue"))
        answer = read_to_end(sock)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nconnection: close\r\n" in answer


def test_a_client_that_waits_to_be_asked_is_asked_and_kept(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(post("/api/generate", "Content-Length: 3", "Expect: 100-continue"))
        asked = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert sock.recv(len(asked)) == asked
        sock.sendall(b"abc")
        response, body = response_of(sock)
    assert (response.status, body) == (200, b"3")
    assert "connection" not in response.headers


def test_a_client_that_stops_sending_gets_the_408_and_is_cut_off(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(post("/api/chat", "Content-Length: 10") + b"{")
        answer = read_to_end(sock)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close" in head
    assert json.loads(body) == {"error": "request body did not arrive within 0.05 seconds"}


def test_a_client_that_leaves_while_it_sends_is_no_failure(
    port: int, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(port) as sock:
        sock.sendall(post("/api/generate", "Content-Length: 10") + b"{")
    assert echo.left.get(timeout=30)
    with connect(port) as sock:
        sock.sendall(b"GET /api/ps HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert response_of(sock)[1] == b"here"
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_requests_sent_in_one_go_are_answered_in_turn(port: int) -> None:
    first = post("/api/generate", f"Content-Length: {2 * LIMIT}") + bytes(2 * LIMIT)
    second = post("/api/generate", "Content-Length: 3") + b"abc"
    third = b"GET /api/ps HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connect(port) as sock:
        sock.sendall(first + second + third)
        answers = read_to_end(sock)
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"413", b"200", b"200"]
    assert answers.endswith(b"here")
