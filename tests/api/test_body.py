import asyncio
import gzip
import json
import logging
import queue
import random
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
import zstandard
from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive

from app.api.body import OpenBodies, read_body
from app.api.encodings import SLICE_BYTES, Encoding
from app.api.transport import install
from app.core.errors import BodiesFull, BodyTimeout, BodyTooLarge, InvalidRequest, UnsupportedEncoding
from tests.api.live import connect, read_to_end, response_of, serving

LIMIT = 100_000
FREE = 64 << 10
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


# All bodies together (F17).


class Clients:
    """Bodies under way at once; each arrives, ends, fails or leaves as it is told."""

    def __init__(self, limit_bytes: int) -> None:
        self.bodies = OpenBodies(limit_bytes)
        self.reading: list[tuple[asyncio.Task[bytes], asyncio.Queue[Message]]] = []

    def join(self, limit_bytes: int) -> None:
        sent = asyncio.Queue[Message]()
        read = read_body(sent.get, limit_bytes=limit_bytes, timeout_s=60, bodies=self.bodies)
        self.reading.append((asyncio.create_task(read), sent))

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        ended = [task for task, _ in self.reading if task.done()]
        await asyncio.gather(*ended, return_exceptions=True)
        self.reading = [(task, sent) for task, sent in self.reading if not task.done()]

    async def leave(self) -> None:
        for task, _ in self.reading:
            task.cancel()
        await asyncio.gather(*(task for task, _ in self.reading), return_exceptions=True)


@pytest.mark.parametrize("seed", range(20))
async def test_what_bodies_hold_is_within_the_budget_and_freed_once(seed: int) -> None:
    chance, limit = random.Random(seed), 300_000
    clients = Clients(limit)
    for _ in range(300):
        if len(clients.reading) < 12:
            clients.join(chance.choice((1000, 100_000, 400_000)))
        task, sent = chance.choice(clients.reading)
        part: Message = {"type": "http.request", "body": bytes(chance.choice((0, 1, 60_000, 120_000)))}
        match chance.choice(("part",) * 8 + ("last", "leave", "cancel")):
            case "part":
                sent.put_nowait(part | {"more_body": True})
            case "last":
                sent.put_nowait(part)
            case "leave":
                sent.put_nowait({"type": "http.disconnect"})
            case _:
                task.cancel()
        await clients.settle()
        assert 0 <= clients.bodies.held_bytes <= limit
    await clients.leave()
    assert clients.bodies.held_bytes == 0


async def test_over_the_budget_large_bodies_are_refused_and_small_ones_taken() -> None:
    bodies = OpenBodies(1)
    with pytest.raises(BodiesFull):
        await read_body(messages(bytes(FREE), b"ab"), limit_bytes=SIXTY_MB, timeout_s=1, bodies=bodies)
    small = await read_body(messages(bytes(FREE)), limit_bytes=SIXTY_MB, timeout_s=1, bodies=bodies)
    assert len(small) == FREE


async def test_a_budget_of_nothing_is_none() -> None:
    body = await read_body(messages(bytes(LIMIT)), limit_bytes=LIMIT, timeout_s=1, bodies=OpenBodies())
    assert len(body) == LIMIT


# Encodings.


def squeezed(name: str, data: bytes) -> bytes:
    if name.endswith("zstd"):
        return zstandard.ZstdCompressor(write_checksum=len(data) % 2 == 0).compress(data)
    return gzip.compress(data) if name.endswith("gzip") else zlib.compress(data)


async def decode(encoding: str, *parts: bytes, decoded_limit_bytes: int = 1 << 30) -> bytes:
    return await read_body(
        messages(*parts),
        limit_bytes=1 << 30,
        timeout_s=60,
        headers=[(b"content-encoding", encoding.encode())],
        decoded_limit_bytes=decoded_limit_bytes,
    )


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd", "x-gzip", "GZIP", " gzip ", "identity, gzip"])
@pytest.mark.parametrize("size", [0, 1, 1000, SLICE_BYTES, SLICE_BYTES + 1, 4 * SLICE_BYTES])
async def test_an_encoded_body_is_decoded_however_it_is_cut(name: str, size: int) -> None:
    data = (b"some words, " * (size // 12 + 1))[:size]
    encoded = squeezed(name.strip().lower(), data)
    for step in (1, 7, 1 << 20):
        parts = [encoded[at : at + step] for at in range(0, len(encoded), step)]
        assert await decode(name, *parts) == data


@pytest.mark.parametrize("name", ["", "identity", " Identity"])
async def test_a_body_that_is_as_it_is_stays_so(name: str) -> None:
    assert await decode(name, b"abc") == b"abc"


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
async def test_an_encoded_body_of_nothing_is_nothing(name: str) -> None:
    assert await decode(name, b"") == b""


@pytest.mark.parametrize("name", ["br", "compress", "zstd, gzip", "gzip, gzip", "gzip, br", "chunked", "*"])
async def test_any_other_encoding_is_refused_unread(name: str) -> None:
    async def never() -> Message:
        raise AssertionError("the body was asked for")

    with pytest.raises(UnsupportedEncoding, match="is not supported: use gzip, deflate, zstd or none"):
        await read_body(never, limit_bytes=9, timeout_s=1, headers=[(b"content-encoding", name.encode())])


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
async def test_a_body_that_is_not_what_it_says_is_refused(name: str) -> None:
    whole = squeezed(name, b"abc" * 1000)
    for wrong in (b"{}", whole[:-1], whole[:10], whole + b"x", whole + whole, bytes(1000)):
        with pytest.raises(InvalidRequest):
            await decode(name, wrong)
        with pytest.raises(InvalidRequest):
            await decode(name, *(wrong[at : at + 1] for at in range(len(wrong))))


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
async def test_what_expands_without_end_stops_at_the_limit_and_in_small_pieces(name: str) -> None:
    """64 MiB in 64 KiB: no slice takes long, and no more is made than the limit."""
    bomb = squeezed(name, bytes(64 << 20))
    longest_s, done = 0.0, False

    async def look() -> None:
        nonlocal longest_s
        while not done:
            begun = time.thread_time()
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.thread_time() - begun)

    looking = asyncio.create_task(look())
    tracemalloc.start()
    with pytest.raises(BodyTooLarge, match="the limit is 8388608 bytes once decoded"):
        await decode(name, bomb, decoded_limit_bytes=8 << 20)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    done = True
    await looking
    assert longest_s < 0.5
    assert peak_bytes < 24 << 20


async def test_a_zstd_body_of_tiny_blocks_or_a_large_window_is_bounded() -> None:
    """4 bytes a block that each come to 128 KiB, which the decompressor itself would write all at once."""
    block = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"x"
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, 0x38])
    with pytest.raises(BodyTooLarge):
        await decode("zstd", frame + block * 4096, decoded_limit_bytes=1 << 20)
    with pytest.raises(InvalidRequest, match="is not valid zstd"):
        await decode("zstd", b"\x28\xb5\x2f\xfd" + bytes([0, 0xA0]) + block)
    longest = max(map(len, Encoding("zstd", 1 << 30).feed(frame + block * 64)))
    assert longest <= SLICE_BYTES


async def test_what_is_decoded_counts_for_the_budget() -> None:
    with pytest.raises(BodiesFull):
        await read_body(
            messages(gzip.compress(bytes(1 << 20))),
            limit_bytes=LIMIT,
            timeout_s=60,
            headers=[(b"content-encoding", b"gzip")],
            bodies=OpenBodies(1 << 18),
        )


def test_encodings_over_http(port: int) -> None:
    with connect(port) as sock:
        data = gzip.compress(b"abc")
        sock.sendall(post("/api/generate", f"Content-Length: {len(data)}", "Content-Encoding: gzip") + data)
        assert response_of(sock)[1] == b"3"
        sock.sendall(post("/api/generate", "Content-Length: 3", "Content-Encoding: br") + b"abc")
        response, body = response_of(sock)
        assert (response.status, response.headers["accept-encoding"]) == (415, "gzip, deflate, zstd")
        assert json.loads(body) == {
            "error": "content encoding 'br' is not supported: use gzip, deflate, zstd or none"
        }
        sock.sendall(b"GET /api/ps HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert response_of(sock)[1] == b"here"
