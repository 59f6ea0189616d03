"""A server that gives each connection the same bytes, for answers that no server of ours gives."""

import re
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Scripted:
    """`requests` are those that came, with their bodies where these have a length."""

    port: int
    requests: list[bytes] = field(default_factory=list[bytes])


@contextmanager
def scripted(answer: bytes, *, hold: bool = False) -> Generator[Scripted]:
    """Answer each request with `answer` and close, or `hold` the connection open until the end."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stub = Scripted(listener.getsockname()[1])

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                request = _request(connection)
                if not request:
                    connection.close()
                    return
                stub.requests.append(request)
                with suppress(OSError):
                    connection.sendall(answer)
                if hold:
                    held.append(connection)
                else:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield stub
        finally:
            # Closing a listener does not wake who waits at it: a connection that sends nothing does.
            socket.create_connection(("127.0.0.1", stub.port)).close()
            thread.join()
            for connection in held:
                connection.close()


def _request(connection: socket.socket) -> bytes:
    """A whole request: closing with some of it unread would reset the connection."""
    data, most = b"", -1
    while most < 0 or len(data) < most:
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
        head, end, _ = data.partition(b"\r\n\r\n")
        if end:
            found = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
            most = len(head) + len(end) + (int(found[1]) if found else 0)
    return data
