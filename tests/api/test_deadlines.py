"""Requests that take too long: to be sent, or to be answered."""

import asyncio
import json
import math
import socket
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import pytest
from starlette.responses import PlainTextResponse

from app.api.connection import Connection, connection_class
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from tests.api.live import connect, read_to_end, response_of, serving
from tests.api.scrape import value
from tests.e2e.engines import eventually
from tests.e2e.fake_site import FakeSite, fake_site

SOON_S = 10.0
LONG_S = 120
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TEXT = "the request took longer than this server allows"
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def hold_from(first: int) -> FakeEngine:
    """An engine that never makes the delta of that index."""

    def gate(index: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if index < first:
            future.set_result(None)
        return future

    return FakeEngine(default=Reply((" a", " b", " c"), gate=gate), slots=1)


def at_rest(site: FakeSite) -> bool:
    return site.running == 0


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_stream_that_takes_too_long_ends_with_an_error_line_and_frees_the_engine(path: str) -> None:
    with fake_site(fake_model("m"), engine=lambda: hold_from(2), request_timeout=0.5) as site:
        answer = site.client.post(path, json=CHAT | {"prompt": "Hi"})
        *first, last = map(json.loads, answer.text.splitlines())
        assert answer.status_code == 200
        assert [line["done"] for line in first] == [False, False]
        assert last == {"error": TEXT}
        assert at_rest(site)
        assert (
            value(site.client, "http_server_request_duration_seconds_count", error_type="DeadlineExceeded")
            == 1
        )


@pytest.mark.parametrize("stream", [True, False])
def test_before_the_first_line_the_status_says_so(stream: bool) -> None:
    with fake_site(fake_model("m"), engine=lambda: hold_from(0), request_timeout=0.5) as site:
        answer = site.client.post("/api/chat", json=CHAT | {"stream": stream})
        assert (answer.status_code, answer.json()) == (504, {"error": TEXT})
        assert at_rest(site)


def test_time_in_the_queue_counts() -> None:
    with fake_site(fake_model("m"), engine=lambda: hold_from(0), request_timeout=0.5, max_queue=5) as site:
        data = json.dumps(CHAT).encode()
        head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        clients = [connect(site.port) for _ in range(3)]
        for client in clients:
            client.sendall(head + data)
        answers = [response_of(client) for client in clients]
        assert [(answer.status, json.loads(body)) for answer, body in answers] == [(504, {"error": TEXT})] * 3
        for client in clients:
            client.close()
        assert at_rest(site)


def test_a_client_that_does_not_read_cannot_hold_the_engine() -> None:
    """Its socket is full, so the server waits to send when the time is over."""
    big = Reply([" " + "x" * 65536] * 500)
    with fake_site(
        fake_model("m"), engine=lambda: FakeEngine(default=big, slots=1, window=10_000), request_timeout=0.5
    ) as site:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", site.port))
            data = json.dumps(CHAT).encode()
            head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
            client.sendall(head.encode() + data)
            eventually(lambda: site.running == 1, SOON_S)
            eventually(lambda: at_rest(site), SOON_S)
        assert site.client.get("/api/version").status_code == 200


# The head of a request.


@contextmanager
def guarded(headers_timeout_s: float) -> Generator[int]:
    with serving(PlainTextResponse("ok"), http=connection_class(headers_timeout_s)) as port:
        yield port


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HT", HEAD[:-2]])
def test_a_head_that_does_not_arrive_in_time_closes_the_connection(sent: bytes) -> None:
    with guarded(0.3) as port, connect(port) as client:
        client.sendall(sent)
        answer = read_to_end(client)
        if not sent.strip():
            assert answer == b""
        else:
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ")
            assert json.loads(body) == {"error": "the head of the request did not arrive in time"}


def test_a_head_that_trickles_in_gains_no_time() -> None:
    with guarded(0.5) as port, connect(port) as client:
        client.settimeout(0.05)
        answer, begun = b"", time.monotonic()
        client.sendall(b"GET / HTTP/1.1\r\n")
        while not answer:
            assert time.monotonic() < begun + SOON_S
            client.sendall(b"X-A: b\r\n")
            try:
                answer = client.recv(65536)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_the_second_head_of_a_connection_has_its_own_time() -> None:
    with guarded(0.5) as port, connect(port) as client:
        client.sendall(HEAD)
        assert response_of(client)[1] == b"ok"
        client.sendall(HEAD[:10])
        assert read_to_end(client).startswith(b"HTTP/1.1 408 ")


def test_a_request_whose_head_came_in_time_takes_as_long_as_it_likes() -> None:
    async def slow(scope: object, receive: object, send: object) -> None:
        await asyncio.sleep(0.6)
        await PlainTextResponse("done")(scope, receive, send)  # type: ignore[arg-type]

    with serving(slow, http=connection_class(0.2)) as port, connect(port) as client:  # type: ignore[arg-type]
        client.sendall(HEAD[:20])
        client.sendall(HEAD[20:])
        assert response_of(client)[1] == b"done"
        client.sendall(HEAD)
        assert response_of(client)[1] == b"done"


# The body.


def test_a_body_that_trickles_in_gains_no_time() -> None:
    with fake_site(fake_model("m"), body_timeout=0.5) as site, connect(site.port) as client:
        client.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        client.settimeout(0.05)
        answer, begun = b"", time.monotonic()
        while not answer:
            assert time.monotonic() < begun + SOON_S
            client.sendall(b" ")
            try:
                answer = client.recv(65536)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request body did not arrive within 0.5 seconds" in answer


# A client that does not read (F10).


@contextmanager
def unread(port: int, body: bytes) -> Generator[socket.socket]:
    """A client that has asked for more than the sockets hold, and reads nothing."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(LONG_S)
        client.connect(("127.0.0.1", port))
        head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        yield client


def flood() -> FakeEngine:
    return FakeEngine(default=Reply([" " + "x" * 65536] * 500), slots=1, window=10_000)


def test_clients_that_do_not_read_are_ended_and_their_places_free() -> None:
    body = json.dumps(CHAT).encode()
    with (
        fake_site(fake_model("m"), engine=flood, send_timeout=0.4, max_queue=3) as site,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(unread(site.port, body)) for _ in range(3)]
        eventually(lambda: site.running, SOON_S)
        eventually(lambda: at_rest(site) and ended(site) == len(clients), 3 * SOON_S)
        with pytest.raises(ConnectionResetError):
            read_to_end(clients[0])
        with site.client.stream("POST", "/api/chat", json=CHAT) as answer:
            assert answer.status_code == 200
            assert json.loads(next(answer.iter_lines()))["done"] is False


def ended(site: FakeSite) -> float | None:
    return value(site.client, "http_server_request_duration_seconds_count", error_type="SendTimeout")


def test_why_a_client_was_ended_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with (
        fake_site(fake_model("m"), engine=flood, send_timeout=0.4) as site,
        unread(site.port, json.dumps(CHAT).encode()),
    ):
        eventually(lambda: ended(site), SOON_S)
    text = "the client took nothing of its answer for 0.4 seconds"
    assert [r for r in caplog.records if r.name == "caravan.access" and text in r.getMessage()]


def test_a_client_that_reads_now_and_then_is_not_ended() -> None:
    with fake_site(fake_model("m"), engine=flood, send_timeout=0.8) as site:
        with unread(site.port, json.dumps(CHAT).encode()) as client:
            tail, pause = b"", threading.Event()
            for _ in range(12):
                pause.wait(0.2)  # three times as long in all as it may take nothing
                assert client.recv(256 << 10)
            while not tail.endswith(b"0\r\n\r\n"):
                part = client.recv(1 << 20)
                assert part
                tail = (tail + part)[-64:]
        assert not ended(site)


def test_a_slow_engine_is_no_client_that_does_not_read() -> None:
    slow = FakeEngine(default=Reply([" a", " b"]), delay_s=0.5)
    with fake_site(fake_model("m"), engine=lambda: slow, send_timeout=0.1) as site:
        answer = site.client.post("/api/chat", json=CHAT)
        assert json.loads(answer.text.splitlines()[-1])["done"]
        assert not ended(site)


def test_what_is_left_of_a_whole_answer_is_not_kept_for_ever() -> None:
    """The request is over once all is handed to the transport; its connection ends as well."""
    made: list[Connection] = []

    class Kept(Connection):
        headers_timeout_s, send_timeout_s, head_bytes = 15.0, 0.4, math.inf

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            made.append(self)
            super().connection_made(transport)

    app = PlainTextResponse("x" * (32 << 20), headers={"connection": "close"})
    with serving(app, http=Kept) as port, connect(port) as client:
        client.sendall(HEAD)
        eventually(lambda: made and made[0].transport.get_extra_info("socket") is not None, SOON_S)
        eventually(lambda: made[0] not in made[0].connections, SOON_S)
        with pytest.raises(ConnectionResetError):
            read_to_end(client)
