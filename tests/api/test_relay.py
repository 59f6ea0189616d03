"""What a front end hands on to the process that has the engines is to a client as if it were not there."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.api.relay import Relay
from tests.api.live import connect, exchange, read_to_end, response_of, serving

BODY = b"a" * 100_000

left = threading.Event()
goes_on = threading.Event()


async def echo(request: Request) -> Response:
    body = await request.body()
    headers = [[name.decode(), value.decode()] for name, value in request.scope["headers"]]
    told = {"path": request.scope["raw_path"].decode(), "query": request.url.query, "headers": headers}
    return JSONResponse(told | {"method": request.method, "size": len(body)}, 201, {"x-told": "yes"})


async def lines(_: Request) -> Response:
    async def made() -> AsyncGenerator[bytes]:
        yield b"first\n"
        await asyncio.to_thread(goes_on.wait, 20)
        yield b"second\n"

    return StreamingResponse(made(), media_type="application/x-ndjson")


async def endless(request: Request) -> Response:
    await request.body()
    while (await request.receive())["type"] != "http.disconnect":
        pass
    left.set()
    return PlainTextResponse("never read")


async def refusing(_: Request) -> Response:
    """Answers without reading the body."""
    return PlainTextResponse("too large", 413, {"connection": "close"})


MANAGER = Starlette(
    routes=[
        Route("/lines", lines),
        Route("/endless", endless, methods=["GET", "POST"]),
        Route("/refusing", refusing, methods=["POST"]),
        Route("/{rest:path}", echo, methods=["GET", "HEAD", "POST", "DELETE"]),
    ]
)


async def own(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("answered here")(scope, receive, send)


@contextmanager
def manager(path: Path) -> Generator[None]:
    server = uvicorn.Server(uvicorn.Config(MANAGER, uds=str(path), log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Generator[int]:
    path = tmp_path_factory.mktemp("relay") / "socket"
    with manager(path), serving(Relay(own, str(path), frozenset({"/api/chat"}))) as port:
        yield port


def test_what_is_for_the_front_end_stays(port: int) -> None:
    assert httpx.post(f"http://127.0.0.1:{port}/api/chat", json={}).text == "answered here"
    assert httpx.get(f"http://127.0.0.1:{port}/api/chat").json()["method"] == "GET"


def test_a_request_arrives_as_it_was_sent(port: int) -> None:
    request = (
        b"POST /api/%62lobs/a%20b?x=1&x=%20 HTTP/1.1\r\nHost: example.com:1\r\nAuthorization: Bearer k\r\n"
        b"X-Twice: a\r\nX-Twice: b\r\nConnection: keep-alive, x-hop\r\nContent-Length: 5\r\n\r\nhello"
    )
    response, body = exchange(port, request)
    told = httpx.Response(200, content=body).json()
    assert (response.status, response.headers["x-told"], told["size"]) == (201, "yes", 5)
    assert (told["path"], told["query"]) == ("/api/%62lobs/a%20b", "x=1&x=%20")
    assert told["headers"] == [
        ["host", "example.com:1"],
        ["authorization", "Bearer k"],
        ["x-twice", "a"],
        ["x-twice", "b"],
        ["content-length", "5"],
    ]


def test_a_body_of_unknown_length_arrives_whole(port: int) -> None:
    def made() -> Generator[bytes]:
        for _ in range(50):
            yield b"a" * 100_000

    assert httpx.post(f"http://127.0.0.1:{port}/api/blobs/x", content=made()).json()["size"] == 5_000_000


def test_an_answer_comes_as_it_is_made(port: int) -> None:
    goes_on.clear()
    with httpx.stream("GET", f"http://127.0.0.1:{port}/lines", timeout=20) as response:
        got = response.iter_lines()
        assert next(got) == "first"
        goes_on.set()
        assert list(got) == ["second"]


def test_head_and_answers_without_a_body(port: int) -> None:
    response = httpx.head(f"http://127.0.0.1:{port}/")
    assert (response.status_code, response.content, response.headers["x-told"]) == (201, b"", "yes")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_client_that_leaves_is_told_of(port: int, method: str) -> None:
    left.clear()
    with connect(port) as sock:
        sock.sendall(f"{method} /endless HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        assert not left.wait(0.2)
    assert left.wait(10)


def test_an_answer_that_comes_before_the_body_is_read(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(b"POST /refusing HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + BODY)
        response, body = response_of(sock)
        assert (response.status, body) == (413, b"too large")


def test_old_clients_get_answers_framed_for_them(port: int) -> None:
    goes_on.set()
    with connect(port) as sock:
        sock.sendall(b"GET /lines HTTP/1.0\r\nHost: x\r\n\r\n")
        head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == b"first\nsecond\n"


def test_without_the_manager_the_server_shuts_down(tmp_path: Path) -> None:
    with serving(Relay(own, str(tmp_path / "nobody"), frozenset())) as port:
        response = httpx.get(f"http://127.0.0.1:{port}/api/ps")
    assert (response.status_code, response.json()) == (503, {"error": "the server is shutting down"})
