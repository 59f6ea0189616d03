"""How the server ends, over real sockets: what is under way, what comes late, and for how long it waits."""

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn

from app.catalogue.library import Library
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.main import build_app
from app.runtime.lifecycle import Lifecycle
from app.serve import Server
from app.settings.server import read_settings
from harness.fake_model import fake_model

WAIT_S = 30.0
CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
SHUTTING_DOWN = {"error": "the server is shutting down"}


@dataclass
class Ending:
    """A server in a thread whose engine says a word, then waits until it may go on."""

    url: str
    server: Server
    thread: threading.Thread
    held: asyncio.Event = field(default_factory=asyncio.Event)

    def signal(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    def go_on(self) -> None:
        loop = self.server.servers[0].get_loop()
        loop.call_soon_threadsafe(self.held.set)

    def ends(self) -> bool:
        self.thread.join(WAIT_S)
        return not self.thread.is_alive()


@contextmanager
def ending(*, grace_s: float = 1e6, delay_s: float = 0) -> Generator[tuple[Ending, httpx.Client]]:
    lifecycle = Lifecycle(grace_s=grace_s, delay_s=delay_s)

    async def gate(index: int) -> None:
        if index:
            await site.held.wait()

    async def start(_: Model) -> FakeEngine:
        return FakeEngine(default=Reply(("one", " two")), gate=gate)

    app = build_app(read_settings(preload=False), Library([fake_model("fake")]), start, lifecycle=lifecycle)
    config = uvicorn.Config(app, http="httptools", ws="none", log_config=None, timeout_graceful_shutdown=3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = Server(config, url, lifecycle)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        site = Ending(url, server, thread)
        thread.start()
        try:
            with httpx.Client(base_url=url, timeout=WAIT_S) as client:
                assert client.get("/livez").text == "ok"
                yield site, client
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def streaming(client: httpx.Client) -> Generator[Generator[Any]]:
    """A chat of which the first line has come; the rest of its lines."""
    with client.stream("POST", "/api/chat", json=CHAT) as answer:
        lines = (json.loads(line) for line in answer.iter_lines())
        assert next(lines)["message"]["content"] == "one"
        yield lines


def test_a_stream_ends_whole_while_new_work_is_refused_on_an_open_listener() -> None:
    with ending() as (site, client), streaming(client) as lines:
        site.signal()
        refused = httpx.post(f"{site.url}/api/chat", json=CHAT)
        assert (refused.status_code, refused.json()) == (503, SHUTTING_DOWN)
        assert refused.headers["connection"] == "close"
        assert refused.headers["x-envoy-immediate-health-check-fail"] == "true"
        ready = httpx.get(f"{site.url}/readyz")
        assert (ready.status_code, ready.text) == (503, "the server is shutting down")
        assert httpx.get(f"{site.url}/livez").status_code == 200
        site.go_on()
        rest = list(lines)
        assert "".join(line["message"]["content"] for line in rest) == " two"
        assert rest[-1]["done"]
        assert site.ends()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{site.url}/livez")


def test_a_second_signal_ends_streams_with_an_error_line() -> None:
    with ending() as (site, client), streaming(client) as lines:
        site.signal()
        site.signal()
        assert list(lines) == [SHUTTING_DOWN]
        assert site.ends()


def test_the_end_of_the_grace_period_does_too() -> None:
    with ending(grace_s=0.3) as (site, client), streaming(client) as lines:
        site.signal()
        assert list(lines) == [SHUTTING_DOWN]
        assert site.ends()


def test_an_answer_in_one_piece_fails_with_503_when_it_is_ended() -> None:
    with ending() as (site, client):
        answers: list[httpx.Response] = []
        with streaming(client):
            asking = threading.Thread(
                target=lambda: answers.append(
                    httpx.post(f"{site.url}/api/chat", json=CHAT | {"stream": False}, timeout=WAIT_S)
                )
            )
            asking.start()
            while len(site.server.server_state.tasks) < 2:
                time.sleep(0.01)  # a probe would be a task too
            site.signal()
            site.signal()
            asking.join(WAIT_S)
        assert [(each.status_code, each.json()) for each in answers] == [(503, SHUTTING_DOWN)]
        assert site.ends()


def test_idle_connections_hold_nothing_up() -> None:
    with ending() as (site, client):
        for _ in range(3):
            client.get("/api/tags")
        with socket.create_connection(("127.0.0.1", int(site.url.rsplit(":", 1)[1]))) as silent:
            site.signal()
            assert site.ends()
            assert silent.recv(1) == b""


def test_a_delay_keeps_an_idle_server_there_to_say_that_it_ends() -> None:
    with ending(delay_s=1e6) as (site, client):
        site.signal()
        assert client.get("/readyz").status_code == 503
        assert site.thread.is_alive()
        site.signal()
        assert site.ends()


def test_a_crash_loop_ends_the_server_as_a_signal_does() -> None:
    with ending() as (site, client), streaming(client) as lines:
        site.server.lifecycle.fail("an engine keeps dying")
        assert httpx.get(f"{site.url}/readyz").status_code == 503
        site.go_on()
        assert list(lines)[-1]["done"]
        assert site.ends()
