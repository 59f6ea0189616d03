"""A server whose answers a test scripts, and the events to script them with."""

import asyncio
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import uvicorn
from fastapi import FastAPI

from app.api.ollama.encoder import ChatEncoder
from app.api.stream import EventResponse, Events, RawSend
from app.core.events import Event

WAIT_S = 30.0


class Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@dataclass
class Site:
    """A running server; `POST /NAME?stream=` answers with the events of the script of that name."""

    port: int = 0
    scripts: dict[str, Callable[[], Events]] = field(default_factory=dict[str, Callable[[], Events]])

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def post(self, name: str, *, stream: bool) -> httpx.Response:
        return httpx.post(self.url(name), params={"stream": stream}, timeout=WAIT_S)

    @contextmanager
    def connect(self, name: str, *, stream: bool, receive_buffer: int = 65536) -> Generator[socket.socket]:
        """A client in the middle of a request; it goes away at the end of the block."""
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            client.settimeout(WAIT_S)
            client.connect(("127.0.0.1", self.port))
            head = f"POST /{name}?stream={stream} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            client.sendall(head.encode())
            yield client


@contextmanager
def running_site(http: str) -> Generator[Site]:
    """A site on a real uvicorn in a thread of its own; `http` names uvicorn's parser."""
    site = Site()
    app = FastAPI()

    async def run(name: str, stream: bool) -> EventResponse:
        return EventResponse(site.scripts[name](), ChatEncoder(name), stream=stream)

    app.add_api_route("/{name}", run, methods=["POST"], response_model=None)
    config = uvicorn.Config(
        RawSend(app),
        host="127.0.0.1",
        port=0,
        http=http,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert server.listening.wait(WAIT_S)
        site.port = server.servers[0].sockets[0].getsockname()[1]
        yield site
    finally:
        server.should_exit = True
        thread.join(WAIT_S)


class Probe:
    """Says from another thread how far a script has come."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.closed = threading.Event()

    async def hang(self, *first: Event) -> Events:
        """These events, then nothing for ever."""
        self.started.set()
        try:
            for event in first:
                yield [event]
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def finish(self, *events: Event | list[Event]) -> Events:
        self.started.set()
        try:
            for event in events:
                yield event if isinstance(event, list) else [event]
        finally:
            self.closed.set()

    async def fail(self, error: Exception, *first: Event) -> Events:
        for event in first:
            yield [event]
        raise error
