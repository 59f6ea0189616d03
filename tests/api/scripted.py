"""A server that answers with bytes of the test's, for answers that no server of ours gives."""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

Answer: TypeAlias = bytes | Callable[[bytes], bytes]
"""The same for each request, or by its first bytes."""

_KEPT_BYTES = 64 << 10


@dataclass
class Scripted:
    """`requests` are the beginnings of those that came."""

    port: int
    requests: list[bytes] = field(default_factory=list[bytes])


@contextmanager
def scripted(answer: Answer, *, hold: bool = False, tls: ssl.SSLContext | None = None) -> Generator[Scripted]:
    """Answer each connection's request and close it, or `hold` it open until the end."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stub = Scripted(listener.getsockname()[1])

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with suppress(OSError):
                    if tls is not None:
                        connection = tls.wrap_socket(connection, server_side=True)
                    request = _request(connection)
                    if request == _END:
                        connection.close()
                        return
                    stub.requests.append(request)
                    connection.sendall(answer if isinstance(answer, bytes) else answer(request))
                if hold:
                    held.append(connection)
                else:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield stub
        finally:
            # Closing a listener does not wake who waits at it.
            last = socket.create_connection(("127.0.0.1", stub.port))
            if tls is not None:
                anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
                last = anyone.wrap_socket(last)
            last.sendall(_END)
            thread.join()
            last.close()
            for connection in held:
                connection.close()


_END = b"END / HTTP/1.1\r\n\r\n"


def _request(connection: socket.socket) -> bytes:
    """A whole request: closing with some of it unread would reset the connection."""
    data, left = b"", -1
    while left:
        piece = connection.recv(1 << 20)
        if not piece:
            break
        if len(data) < _KEPT_BYTES:
            data += piece
        if left >= 0:
            left -= len(piece)
            continue
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            found = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
            left = (int(found[1]) if found else 0) - len(body)
    return data
