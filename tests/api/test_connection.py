"""What a connection makes of the bytes of HTTP/1: upgrades, HTTP/1.0, heads, requests sent ahead."""

import asyncio
import json
import math
import resource
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.connection import Connection
from tests.api.live import connect, exchange, read_to_end, response_of, serving
from tests.e2e.engines import eventually

BODY = b'{"model":"m"}'
WAIT_S = 30.0
LIMIT = 64 << 10
OFFERS = {
    "h2c": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
    "tls": "Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
    "websocket": "Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Version: 13\r\n",
    "none": "",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PLAIN = b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n"


async def mirror(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what it was asked."""
    if scope["type"] != "http":
        return
    request = Request(scope, receive)
    told = {
        "method": request.method,
        "path": request.url.path,
        "body": (await request.body()).decode("latin-1"),
        "headers": [name for name, _ in request.headers.items()],
    }
    await JSONResponse(told)(scope, receive, send)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(mirror) as port:
        yield port


def request(method: str, fields: str = "", body: bytes = BODY, *, chunked: bool = False) -> bytes:
    framing = "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {len(body)}\r\n"
    head = f"{method} /asked HTTP/1.1\r\nHost: a\r\n{fields}{framing}\r\n".encode()
    if chunked:
        body = b"1\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (body[:1], len(body) - 1, body[1:])
    return head + body


class Answers:
    """The answers of a connection in turn: `HTTPResponse` takes what follows the first one with it."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb")

    def next(self, method: str = "GET") -> bytes:
        assert self._file.readline() == b"HTTP/1.1 200 OK\r\n"
        fields = dict(line.split(b": ", 1) for line in iter(self._file.readline, b"\r\n"))
        return b"" if method == "HEAD" else self._file.read(int(fields[b"content-length"]))

    def told(self, method: str = "GET") -> dict[str, str]:
        """The next answer of `mirror`; that to HEAD tells nothing."""
        return json.loads(self.next(method) or b"{}")


# Upgrades.


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_to_upgrade_is_answered_as_if_it_were_none(
    port: int, offer: str, method: str, *, chunked: bool
) -> None:
    data = request(method, OFFERS[offer], chunked=chunked)
    expected = ("", "") if method == "HEAD" else (method, BODY.decode())
    with connect(port) as sock:
        answers = Answers(sock)
        for packet in (data, data + data):  # kept, and with others behind it
            sock.sendall(packet)
            for _ in range(len(packet) // len(data)):
                told = answers.told(method)
                assert (told.get("method", ""), told.get("body", "")) == expected
        sock.sendall(data + PLAIN)
        answers.next(method)
        told = answers.told()
    assert (told["path"], told["body"]) == ("/after", "")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_to_upgrade_may_be_cut_anywhere(port: int, offer: str, *, chunked: bool) -> None:
    data = request("POST", OFFERS[offer], chunked=chunked) + PLAIN
    with connect(port) as sock:
        answers = Answers(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            sock.sendall(bytes([byte]))
        assert answers.told()["body"] == BODY.decode()
        assert answers.told()["path"] == "/after"
        for cut in range(1, len(data)):
            sock.sendall(data[:cut])
            sock.sendall(data[cut:])
            assert answers.told()["body"] == BODY.decode()
            assert answers.told()["path"] == "/after"


@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_without_a_body_has_none(port: int, offer: str) -> None:
    with connect(port) as sock:
        answers = Answers(sock)
        sock.sendall(f"GET /asked HTTP/1.1\r\nHost: a\r\n{OFFERS[offer]}\r\n".encode() + PLAIN)
        assert [answers.told()["path"] for _ in range(2)] == ["/asked", "/after"]


@pytest.mark.parametrize(
    "head",
    [
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b"BREW / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_in_words_and_closed(port: int, head: bytes) -> None:
    with connect(port) as sock:
        sock.sendall(head)
        response, body = response_of(sock)
        assert (response.status, response.headers["connection"]) == (400, "close")
        assert json.loads(body) == {"error": "this is not a valid HTTP request"}
        assert sock.recv(1) == b""


@pytest.mark.parametrize("offer", [OFFERS["none"], OFFERS["h2c"]], ids=["plain", "offer"])
@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ("Transfer-Encoding: gzip, chunked\r\n", 501, "chunked is the only coding known here"),
        ("Transfer-Encoding: GZIP ,, Chunked\r\n", 501, "chunked is the only coding known here"),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501, "chunked is the only coding"),
        ("Host: b\r\nContent-Length: 0\r\n", 400, "a request has one Host header"),
        ("Host: a\r\nContent-Length: 0\r\n", 400, "a request has one Host header"),
    ],
)
def test_a_head_that_the_parser_lets_pass_is_refused_before_the_body(
    port: int, offer: str, fields: str, status: int, text: str
) -> None:
    """The body was taken for plain JSON, and the guard looked at one of two hosts."""
    with connect(port) as sock:
        sock.sendall(
            f"POST /asked HTTP/1.1\r\nHost: a\r\n{offer}{fields}\r\n".encode() + b"2\r\n{}\r\n0\r\n\r\n"
        )
        assert text in refused(sock, status)


def test_a_head_refused_behind_a_good_request_lets_its_answer_be_read(port: int) -> None:
    bad = b"POST /asked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    with connect(port) as sock:
        sock.sendall(request("POST") + bad)
        answers = Answers(sock)
        assert answers.told()["body"] == BODY.decode()
        assert b"/asked" not in read_to_end(sock)


@pytest.mark.parametrize("coding", ["chunked", " Chunked", ", chunked"])
def test_chunks_are_taken_however_their_coding_is_written(port: int, coding: str) -> None:
    data = request("POST", chunked=True).replace(b"chunked", coding.encode())
    with connect(port) as sock:
        sock.sendall(data)
        assert Answers(sock).told()["body"] == BODY.decode()


# HTTP/1.0.


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers `/whole` with a length, `/broken` with a failure half way, all else without a length."""

    async def lines() -> AsyncGenerator[bytes]:
        yield b"one\n"
        if scope["path"] == "/broken":
            raise KeyError
        yield b""
        yield b"two\n"

    whole = scope["path"] == "/whole"
    response: Response = PlainTextResponse("whole") if whole else StreamingResponse(lines())
    await response(scope, receive, send)


@pytest.fixture(scope="module")
def old() -> Iterator[int]:
    with serving(stream) as port:
        yield port


@pytest.mark.parametrize("asked", ["", "Connection: keep-alive\r\n", "Connection: close\r\n"])
def test_an_old_client_gets_no_chunks(old: int, asked: str) -> None:
    with connect(old) as sock:
        sock.sendall(f"GET / HTTP/1.0\r\n{asked}\r\n".encode())
        head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
    assert body == b"one\ntwo\n"
    assert b"transfer-encoding" not in head.lower()
    assert b"\r\nconnection: close" in head


def test_an_old_client_stays_if_it_asks_to_and_the_answer_has_a_length(old: int) -> None:
    with connect(old) as sock:
        for _ in range(2):
            sock.sendall(b"GET /whole HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            response, body = response_of(sock)
            assert (body, response.headers["connection"]) == (b"whole", "keep-alive")
        sock.sendall(b"GET /whole HTTP/1.0\r\n\r\n")
        assert read_to_end(sock).endswith(b"whole")


def test_an_answer_that_breaks_does_not_look_whole_to_an_old_client(old: int) -> None:
    """Nothing but a reset tells it from the end."""
    with connect(old) as sock:
        sock.sendall(b"GET /broken HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            read_to_end(sock)


def test_a_new_client_still_gets_chunks(old: int) -> None:
    response, body = exchange(old, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (response.headers["transfer-encoding"], body) == ("chunked", b"one\ntwo\n")


# Heads and trailers (F6).


def refused(sock: socket.socket, status: int) -> str:
    response, body = response_of(sock)
    assert (response.status, response.headers["connection"]) == (status, "close")
    assert sock.recv(1) == b""
    return json.loads(body)["error"]


def flood(sock: socket.socket, piece: bytes, count: int) -> None:
    """Send all of it, unless the server has had enough."""
    try:
        for _ in range(count):
            sock.sendall(piece)
    except OSError:
        pass


ENDLESS = {
    "fields": (b"GET / HTTP/1.1\r\n", b"a:b\r\n" * 1000),
    "a field": (b"GET / HTTP/1.1\r\na: ", b"b" * 5000),
    "a name": (b"GET / HTTP/1.1\r\n", b"b" * 5000),
    "a URL": (b"GET /", b"b" * 5000),
    "trailers": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"a:b\r\n" * 1000),
    "a trailer": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\na: ", b"b" * 5000),
    "a chunk's extension": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;a=", b"b" * 5000),
    "a chunk's length": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 5000),
    "an offer's trailers": (
        b"POST / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"a:b\r\n" * 1000,
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_stands_around_a_body_is_refused_over_the_limit(port: int, what: str) -> None:
    begin, piece = ENDLESS[what]
    with connect(port) as sock:
        sock.sendall(begin)
        flood(sock, piece, 4 * LIMIT // len(piece))
        text = refused(sock, 431)
    assert text.endswith(f"too large: the limit is {LIMIT} bytes")


@pytest.mark.parametrize("cut", [None, 1 << 10, 1 << 14])
def test_a_head_is_refused_from_the_first_byte_over_the_limit(port: int, cut: int | None) -> None:
    def head(size: int) -> bytes:
        # The line of the request counts as its URL alone.
        return b"GET / HTTP/1.1\r\nx: %s\r\n\r\n" % (b"y" * (size - len("/x: \r\n")))

    for size, status in ((LIMIT, 200), (LIMIT + 1, 431)):
        with connect(port) as sock:
            data = head(size)
            for at in range(0, len(data), cut or len(data)):
                sock.sendall(data[at : at + (cut or len(data))])
            assert response_of(sock)[0].status == status


def test_a_trailer_is_no_header(port: int) -> None:
    """Nor does one leak into the request after it."""
    data = b"POST /asked HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
    with connect(port) as sock:
        answers = Answers(sock)
        sock.sendall(data + PLAIN)
        assert [answers.told()["headers"] for _ in range(2)] == [["transfer-encoding"], ["host"]]


def test_a_body_in_small_chunks_is_taken_whole(port: int) -> None:
    """What frames it is five times as much as the body, and over the limit of a head."""
    size = LIMIT
    with connect(port) as sock:
        sock.sendall(b"POST /asked HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"1\r\na\r\n" * size + b"0\r\n\r\n")
        assert Answers(sock).told()["body"] == "a" * size


# Growth: what a client sends before it is answered costs little, however much it is.


class Loop:
    """The CPU time of the server's callbacks, and the connections that they belong to."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.kept: list[Connection] = []

    def http(self) -> type[asyncio.Protocol]:
        loop = self

        class Watched(Connection):
            headers_timeout_s = 15.0
            send_timeout_s = math.inf
            head_bytes = LIMIT

            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                loop.kept.append(self)
                super().connection_made(transport)

            def data_received(self, data: bytes) -> None:
                begun = time.thread_time()
                super().data_received(data)
                loop.longest_s = max(loop.longest_s, time.thread_time() - begun)

        return Watched


def memory_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.parametrize("what", ENDLESS)
def test_work_and_memory_do_not_grow_with_what_is_refused(what: str) -> None:
    loop = Loop()
    begin, piece = ENDLESS[what]
    with serving(mirror, http=loop.http()) as port:
        before = memory_bytes()
        for size in (1 << 20, 1 << 22, 1 << 24):
            with connect(port) as sock:
                sock.sendall(begin)
                flood(sock, piece * (size // 16 // len(piece)), 16)
                with suppress(OSError):  # a client that goes on for long after its answer is reset
                    refused(sock, 431)
        assert memory_bytes() - before < 64 << 20
    assert loop.longest_s < 0.5


def test_chunks_of_a_byte_cost_linear_work_in_small_pieces() -> None:
    loop = Loop()
    with serving(mirror, http=loop.http()) as port, connect(port) as sock:
        sock.sendall(b"POST /asked HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"1\r\na\r\n" * (1 << 18) + b"0\r\n\r\n")
        assert len(Answers(sock).told()["body"]) == 1 << 18
    assert loop.longest_s < 0.5


def test_requests_sent_ahead_wait_in_the_socket() -> None:
    """A connection parses some, holds what it had read, and reads no more until these are answered."""
    loop, may_go = Loop(), threading.Event()

    async def held(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await asyncio.to_thread(may_go.wait)
            await PlainTextResponse("ok")(scope, receive, send)

    data = b"GET / HTTP/1.1\r\nHost: a\r\nx: %s\r\n\r\n" % (b"y" * 1000)
    with serving(held, http=loop.http()) as port, connect(port) as sock:
        sock.settimeout(0.5)
        sent = 0
        try:
            while sent < 64 << 20:
                sent += sock.send(data)
        except TimeoutError:
            pass
        assert sent < 64 << 20
        [connection] = loop.kept
        assert len(connection.pipeline) < 10_000 // len(data) + 5
        assert connection.waiting_bytes < 1 << 20
        sock.settimeout(WAIT_S)
        whole = sent // len(data)
        may_go.set()
        answers = Answers(sock)
        assert [answers.next() for _ in range(whole)] == [b"ok"] * whole


def test_small_requests_sent_ahead_are_parsed_a_few_at_a_time() -> None:
    loop, may_go = Loop(), threading.Event()

    async def held(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await asyncio.to_thread(may_go.wait)
            await PlainTextResponse("ok")(scope, receive, send)

    with serving(held, http=loop.http()) as port, connect(port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n" * 2000)
        eventually(lambda: loop.kept and loop.kept[0].waiting_bytes, WAIT_S)
        assert len(loop.kept[0].pipeline) < 500
        may_go.set()
        answers = Answers(sock)
        assert [answers.next() for _ in range(2000)] == [b"ok"] * 2000


# An answer under way is not torn by what comes after its request.


@pytest.mark.parametrize("junk", [b"BREW / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * LIMIT])
def test_an_answer_is_whole_whatever_comes_behind_its_request(junk: bytes) -> None:
    loop, may_go = Loop(), threading.Event()

    async def held(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await asyncio.to_thread(may_go.wait)
            await PlainTextResponse("whole")(scope, receive, send)

    with serving(held, http=loop.http()) as port, connect(port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + junk)
        eventually(lambda: loop.kept and not loop.kept[0].reads, WAIT_S)
        may_go.set()
        response, body = response_of(sock)
        assert (response.status, body) == (200, b"whole")
        assert sock.recv(1) == b""


# An answer that ends the connection reaches a client that still sends.


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_client_that_sends_much_before_it_reads_gets_the_answer(version: bytes) -> None:
    async def hasty(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await PlainTextResponse("no", 503, {"connection": "close"})(scope, receive, send)

    size = 32 << 20
    with serving(hasty) as port, connect(port) as sock:
        sock.sendall(b"POST / HTTP/%s\r\nContent-Length: %d\r\n\r\n" % (version, size))
        sock.sendall(bytes(size))
        assert read_to_end(sock).startswith(b"HTTP/1.1 503 ")


def test_a_socket_that_is_closed_already_holds_nothing_unread() -> None:
    """A client that resets an idle connection closes it before the keep-alive's timer runs."""
    connection = Connection.__new__(Connection)
    gone = socket.socket()
    gone.close()
    connection.transport = SimpleNamespace(get_extra_info=lambda _: gone)  # type: ignore[assignment]
    assert connection._unread_bytes() == 0  # pyright: ignore[reportPrivateUsage]
