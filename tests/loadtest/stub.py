"""A server whose answers a test writes byte by byte."""

import json
import socketserver
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
)
END = b"0\r\n\r\n"


def line(**fields: object) -> bytes:
    """A line of NDJSON as a chunk."""
    text = json.dumps(fields).encode() + b"\n"
    return b"%x\r\n%s\r\n" % (len(text), text)


TEXT = HEAD + line(response="a", done=False) + line(response="b", done=False)
DONE = line(response="", done=True, done_reason="stop", prompt_eval_count=3, eval_count=2)


@dataclass
class Stub:
    """What it was asked, and how often each answer was given."""

    port: int
    heads: list[str] = field(default_factory=list[str])
    given: dict[str, int] = field(default_factory=dict[str, int])


@contextmanager
def stub(answers: Sequence[tuple[str, bytes]]) -> Generator[Stub]:
    """Give the named answers in turns, each on a connection that ends with it; `b""` stays silent until the
    client goes."""
    turns, lock = cycle(answers), threading.Lock()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = "".join(iter(lambda: self.rfile.readline().decode("latin-1"), "\r\n"))
            length = next(
                int(row.split(":")[1]) for row in head.lower().splitlines() if "content-length" in row
            )
            self.rfile.read(length)
            with lock:
                name, answer = next(turns)
                made.heads.append(head)
                made.given[name] = made.given.get(name, 0) + 1
            self.wfile.write(answer)
            if not answer:
                self.rfile.read()

    with _Server(("127.0.0.1", 0), Handler) as server:
        made = Stub(server.server_address[1])
        serve: Callable[[], None] = server.serve_forever
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
