"""How a benchmark asks a server: the two dialects, one request, a crowd of them, and what is kept of it."""

import asyncio
import json
import re
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.servers import NAME, Body, cpu_seconds

REPLY_S = 900.0
CONTENT = re.compile(rb'"content": ?"[^"]')


class BadAnswer(Exception):
    """A reply that is not whole: the run counts for nothing."""


@dataclass(frozen=True, slots=True)
class Side:
    """A server: how it is started and asked, and how `(prompt, output)` tokens are read from its answer."""

    name: str
    command: str
    ready: str
    path: str
    body: Callable[[str, int], Body]
    counts: Callable[[bytes], tuple[int, int]]
    headers: str = ""


@dataclass(slots=True)
class Measured:
    """What one server did at one concurrency."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    tokens: float = 0.0
    first_s: list[float] = field(default_factory=list[float])
    counts: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    """Prompt and output tokens of each reply, by the number of its prompt."""

    def add(self, more: "Measured") -> None:
        self.seconds += more.seconds
        self.cpu_seconds += more.cpu_seconds
        self.tokens += more.tokens
        self.first_s += more.first_s
        self.counts |= more.counts

    def figures(self) -> dict[str, float]:
        return {
            "output tokens/s": self.tokens / self.seconds,
            "median TTFT, ms": statistics.median(self.first_s) * 1e3,
            "p99 TTFT, ms": quantile(self.first_s, 0.99) * 1e3,
            "front-end CPU s / 1,000 tokens": self.cpu_seconds / self.tokens * 1e3,
        }


Results = dict[tuple[str, int], list[Measured]]
"""By server and number of clients, one for each start."""


def total(starts: Sequence[Measured]) -> Measured:
    """All starts as one."""
    found = Measured()
    for each in starts:
        found.add(each)
    return found


def ollama_body(prompt: str, tokens: int) -> Body:
    options = {"temperature": 0, "num_predict": tokens}
    return {"model": NAME, "messages": [{"role": "user", "content": prompt}], "options": options}


def openai_body(prompt: str, tokens: int) -> Body:
    return {
        "model": NAME,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def ollama_counts(answer: bytes) -> tuple[int, int]:
    last = json.loads(answer.splitlines()[-1])
    if not last.get("done"):
        raise BadAnswer(f"no done line: {last}")
    return last["prompt_eval_count"], last["eval_count"]


def openai_counts(answer: bytes) -> tuple[int, int]:
    events = [line.removeprefix(b"data: ") for line in answer.splitlines() if line]
    if len(events) < 2 or events[-1] != b"[DONE]":
        raise BadAnswer(f"no [DONE]: {events[-1:]}")
    usage = json.loads(events[-2])["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


@dataclass(frozen=True, slots=True)
class Workload:
    """A model, what it is asked and how long its replies may get; `engine` overrides engine arguments.

    A client begins `apart_s` seconds after the one before, so that 32 begin over about the time that a reply
    takes: where replies are of one length, those that begin together stay in step, and each of their first
    tokens waits for the prompts of all.
    """

    title: str
    model: Path
    prompts: Callable[[int, int], list[str]]
    tokens: int
    engine: Body
    apart_s: float


async def asking(side: Side, port: int, body: Body) -> AsyncGenerator[tuple[bytes, bool], None]:
    """What comes back, head and chunks included, as it comes, and whether there has been text in it."""
    payload = json.dumps(body).encode()
    head = (
        f"POST {side.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n{side.headers}\r\n"
    )
    begun, has_text = b"", False
    async with asyncio.timeout(REPLY_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + payload)
            while data := await reader.read(1 << 16):
                if not has_text:
                    begun += data
                    has_text = CONTENT.search(begun) is not None
                yield data, has_text
        finally:
            writer.close()


async def ask(side: Side, port: int, body: Body) -> tuple[float, bytes]:
    """Seconds to the first text, and the raw answer: it is read once the clock has stopped."""
    first = 0.0
    received = bytearray()
    start = time.perf_counter()
    async with aclosing(asking(side, port, body)) as pieces:
        async for data, has_text in pieces:
            received += data
            if has_text and not first:
                first = time.perf_counter() - start
    return first, bytes(received)


def answer_of(received: bytes) -> bytes:
    """The body of a chunked response."""
    head, _, rest = received.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise BadAnswer(received[:500].decode(errors="replace"))
    parts: list[bytes] = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return b"".join(parts)
        parts.append(rest[:length])
        rest = rest[length + 2 :]
    raise BadAnswer("the response ends early")


async def wave(
    side: Side,
    process: psutil.Process,
    port: int,
    clients: int,
    asked: Sequence[str],
    tokens: int,
) -> Measured:
    """Send `asked`, `clients` at a time, each client its next request when it has its answer."""
    waiting = iter(asked)
    answers: list[tuple[float, bytes]] = []

    async def client() -> None:
        for prompt in waiting:
            answers.append(await ask(side, port, side.body(prompt, tokens)))

    cpu, start = cpu_seconds(process), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    seconds, used = time.perf_counter() - start, cpu_seconds(process) - cpu
    written = sum(side.counts(answer_of(received))[1] for _, received in answers)
    measured = Measured(seconds, used, written, [first for first, _ in answers])
    if not all(measured.first_s):
        raise BadAnswer(f"{side.name} gave a reply without text")
    return measured
