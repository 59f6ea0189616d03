"""Three replicas of a model behind the chart's Envoy, and clients whose every answer is judged."""

import asyncio
import json
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import IncompleteRead
from pathlib import Path
from typing import Any, Literal, TypeAlias

from harness.envoy import HOST, Gateway, gateway
from harness.nursery import Nursery, nursery
from harness.ports import free_port
from tests.gateway.replica import MODEL, reply

NAMES = ("a", "b", "c")
VALUES: dict[str, Any] = {"models": [{"name": MODEL, "source": "x/y"}]}
ANSWER_S = 60.0

Outcome: TypeAlias = Literal["whole", "refused", "cut", "wrong"]
"""`cut` ends early for all to see; `wrong` is what must never be: half an answer that looks whole."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: when it began, who answered (empty where nobody did), and what was received."""

    outcome: Outcome
    begun: float
    by: str
    received: str


@dataclass
class Fleet:
    """The gateway, and the replicas by their name; each keeps its port for life."""

    gateway: Gateway
    nursery: Nursery
    ports: dict[str, int]
    scratch: Path

    def wait_healthy(self, *names: str) -> None:
        self.gateway.wait_healthy(MODEL, {self.ports[name] for name in names})

    def start(self, name: str) -> None:
        self.nursery.start(name, self.ports[name], self.scratch / f"{name}.log")

    def end(self, name: str, how: signal.Signals) -> None:
        """Send the signal and wait until the replica is gone."""
        self.nursery.end(name, how)


@dataclass
class Crowd:
    """Clients that each send their next request when they have their answer, `least` at least."""

    port: int
    least: int = 0
    answers: list[Answer] = field(default_factory=list[Answer])
    stopped: bool = False

    async def run(self, clients: int) -> None:
        async with asyncio.TaskGroup() as group:
            for client in range(clients):
                group.create_task(self._client(client))

    async def _client(self, number: int) -> None:
        """Short answers, whole documents, and streams that outlast the drain's notice."""
        turn = number
        while not self.stopped or len(self.answers) < self.least:
            turn += 1
            tokens = 100 if turn % 12 == 0 else 5
            self.answers.append(await ask(self.port, f"{number}.{turn}", tokens, stream=bool(turn % 3)))

    def of(self, *outcomes: Outcome) -> list[Answer]:
        return [answer for answer in self.answers if answer.outcome in outcomes]


async def ask(port: int, text: str, tokens: int, *, stream: bool) -> Answer:
    """One chat on a connection of its own."""
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": text}],
            "options": {"num_predict": tokens},
            "stream": stream,
        }
    ).encode()
    head = (
        f"POST /api/chat HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    begun = time.monotonic()
    received = b""
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            writer.write(head.encode() + body)
            while data := await reader.read(1 << 16):
                received += data
        except ConnectionResetError:
            pass
        finally:
            writer.close()
    outcome, by = judged(received, tokens)
    return Answer(outcome, begun, by, received.decode(errors="replace"))


def judged(received: bytes, tokens: int) -> tuple[Outcome, str]:
    """What an answer is worth, and whose it is."""
    head, _, rest = received.partition(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0].split(b" ")[1:2]
    if status != [b"200"]:
        told = rest.strip().startswith(b"{") or b'{"error":' in rest
        return ("refused" if told else "cut" if not received else "wrong"), ""
    try:
        body, is_whole = unchunked(rest) if b"chunked" in head.lower() else sized(head, rest), True
    except IncompleteRead as error:
        body, is_whole = error.partial, False
    lines = [json.loads(line) for line in body.split(b"\n")[: None if is_whole else -1] if line]
    said = "".join(line["message"]["content"] for line in lines if "message" in line)
    by = said.partition(" ")[0]
    is_said = bool(by) and said == "".join(reply(by)[:tokens])
    is_done = bool(lines) and lines[-1].get("done") is True and lines[-1].get("eval_count") == tokens
    if is_whole:
        return (
            "whole" if is_said and is_done else "refused" if lines and "error" in lines[-1] else "wrong"
        ), by
    return ("wrong" if is_done else "cut"), by


def sized(head: bytes, rest: bytes) -> bytes:
    """A body whose length was told."""
    length = next(
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    if len(rest) < length:
        raise IncompleteRead(rest, length - len(rest))
    return rest


def unchunked(rest: bytes) -> bytes:
    """A chunked body, or `IncompleteRead` with what there is of it where the last chunk is missing."""
    parts: list[bytes] = []
    while True:
        size, found, rest = rest.partition(b"\r\n")
        length = int(size, 16) if found else -1
        if length == 0:
            return b"".join(parts)
        if length < 0 or len(rest) < length + 2:
            raise IncompleteRead(b"".join([*parts, rest if found else b""]))
        parts.append(rest[:length])
        rest = rest[length + 2 :]


@contextmanager
def fleet(scratch: Path) -> Generator[Fleet]:
    ports = {name: free_port() for name in NAMES}
    with nursery("tests.gateway.replica") as replicas:
        for name, port in ports.items():
            replicas.start(name, port, scratch / f"{name}.log")
        with gateway(VALUES, {MODEL: list(ports.values())}, free_port(), scratch) as made:
            yield Fleet(made, replicas, ports, scratch)
