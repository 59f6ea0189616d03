"""A real server on loopback, for what only sockets can show."""

import asyncio
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPResponse

import uvicorn
from starlette.types import ASGIApp

from app.api.connection import connection_class

CONNECTION = connection_class(headers_timeout_s=15)


@contextmanager
def serving(app: ASGIApp, http: type[asyncio.Protocol] = CONNECTION) -> Generator[int]:
    """The port that `app` is served on. A client may connect at once: the socket listens already."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=http, ws="none", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def response_of(sock: socket.socket) -> tuple[HTTPResponse, bytes]:
    """The next response, read to its end."""
    response = HTTPResponse(sock)
    response.begin()
    return response, response.read()


def exchange(port: int, request: bytes) -> tuple[HTTPResponse, bytes]:
    with connect(port) as sock:
        sock.sendall(request)
        return response_of(sock)


def read_to_end(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))
