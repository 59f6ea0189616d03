"""What stands before an engine, by how many processes: tokens a second, and what each costs.

    python -m bench.front_ends [--pace 100000] [--streams 256 1024 4096] [--seconds 10] [--cache DIR]

The engine is `harness/core_double.py`, which speaks vLLM's protocol and gives all streams together `--pace`
tokens a second. Every stream asks for as many tokens, so that a run takes `--seconds` where the server keeps
the pace, and longer where it does not. The streams are read here, by one process more; on a machine with few
cores it is the CPU for each token that counts, and not how many there are in a second.
"""

import argparse
import asyncio
import json
import re
import resource
import sys
import tempfile
import time
from array import array
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import psutil
import uvloop

from bench.asking import quantile
from bench.servers import NAME, Body, serving
from harness.models.build import build
from harness.ports import free_port
from harness.process import wait_ready
from harness.report import machine_lines, write_section

MARK = "<!-- bench:front-ends -->"
ENGINE: Body = {
    "dtype": "float32",
    "kv_cache_memory_bytes": 64 << 20,
    "max_num_seqs": 8192,
    "max_num_batched_tokens": 16384,
    "max_model_len": 4096,
}
_DOUBLE = "{python} -m harness.core_double"
_SET = "env CORE_DOUBLE_TOKENS_S={pace} CORE_DOUBLE_PIDS={pids} CARAVAN_FRONT_ENDS={count}"
_CARAVAN = f"{_DOUBLE} caravan serve --port {{port}} --config {{config}}"
_VLLM = f"{_DOUBLE} vllm serve {{model}} --port {{port}} --served-model-name {{name}} {{flags}}"
_CONNECT_AT_ONCE = 64
_LOOK_S = 0.25
_END_S = 300.0
_ENGINES = ("multiprocessing.forkserver", "resource_tracker")


@dataclass(frozen=True, slots=True)
class Side:
    """A server with so many front ends; how it is asked, and how its answer is read."""

    name: str
    command: str
    count: int
    ready: str
    path: str
    line: bytes
    tokens: re.Pattern[bytes]

    def body(self, tokens: int) -> Body:
        asked: Body = {"model": NAME, "messages": [{"role": "user", "content": "Hello"}]}
        if self.path.startswith("/v1"):
            usage = {"include_usage": True}
            return asked | {"max_tokens": tokens, "stream": True, "stream_options": usage}
        return asked | {"options": {"num_predict": tokens}}


def sides(counts: Sequence[int], *, vllm: bool) -> list[Side]:
    ours = [
        Side(
            f"Caravan, {each}",
            _CARAVAN,
            each,
            "/readyz",
            "/api/chat",
            b"}\n",
            re.compile(rb'eval_count":(\d+)'),
        )
        for each in counts
    ]
    if not vllm:
        return ours
    path, tokens = "/v1/chat/completions", re.compile(rb'"completion_tokens": ?(\d+)')
    theirs = [
        Side(f"vLLM, {each}", f"{_VLLM} --api-server-count {each}", each, "/health", path, b"data: ", tokens)
        for each in counts
    ]
    return ours + theirs


@dataclass(slots=True)
class Seen:
    """What all streams of a run have seen."""

    gaps_s: "array[float]" = field(default_factory=lambda: array("d"))
    tokens: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    errors: list[str] = field(default_factory=list[str])


class Stream(asyncio.Protocol):
    """One request, read as it comes; nothing is kept of it but times and its end."""

    def __init__(self, side: Side, request: bytes, wanted: int, seen: Seen) -> None:
        self._side, self._request, self._wanted, self._seen = side, request, wanted, seen
        self._last = 0.0
        self._tail = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._request)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-2048:]
        if self._side.line not in data:
            return
        now = time.perf_counter()
        if self._last:
            self._seen.gaps_s.append(now - self._last)
        else:
            self._seen.first_at = self._seen.first_at or now
        self._last = self._seen.last_at = now

    def connection_lost(self, exc: Exception | None) -> None:
        found = self._side.tokens.findall(self._tail)
        tokens = int(found[-1]) if found else 0
        self._seen.tokens += tokens
        if tokens != self._wanted:
            self._seen.errors.append(f"{tokens} tokens of {self._wanted}: {exc or self._tail[-200:]!r}")
        if not self.done.done():
            self.done.set_result(None)


@dataclass(frozen=True, slots=True)
class Front:
    """The processes before the engine: the one that was started, and the others that take requests."""

    main: psutil.Process
    others: tuple[psutil.Process, ...]

    def cpu_s(self) -> list[float]:
        return [_cpu_s(each) for each in (self.main, *self.others)]

    def resident(self) -> int:
        return sum(each.memory_info().rss for each in (self.main, *self.others))


def front_of(process: psutil.Process, pids: Path) -> Front:
    """All of a server less its engines, and what only starts those."""
    doubles = {int(each.name) for each in pids.iterdir()}
    others = [
        each
        for each in process.children(recursive=True)
        if each.pid not in doubles and not any(part in " ".join(each.cmdline()) for part in _ENGINES)
    ]
    return Front(process, tuple(others))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def run(side: Side, front: Front, port: int, streams: int, tokens: int) -> dict[str, float]:
    """Ask by as many streams at once, and what it took."""
    payload = json.dumps(side.body(tokens)).encode()
    request = (
        f"POST {side.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    ).encode() + payload
    seen, loop, door = Seen(), asyncio.get_running_loop(), asyncio.Semaphore(_CONNECT_AT_ONCE)

    async def one() -> None:
        stream = Stream(side, request, tokens, seen)
        async with door:
            await loop.create_connection(lambda: stream, "127.0.0.1", port)
        await stream.done

    before, resident = front.cpu_s(), front.resident()
    most = resident

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, front.resident())
            await asyncio.sleep(_LOOK_S)

    looking = asyncio.create_task(look())
    try:
        async with asyncio.timeout(_END_S):
            ended = await asyncio.gather(*(one() for _ in range(streams)), return_exceptions=True)
    finally:
        looking.cancel()
    seen.errors += [repr(each) for each in ended if each is not None]
    for error in seen.errors[:3]:
        print(error, file=sys.stderr)
    used = [after - then for after, then in zip(front.cpu_s(), before, strict=True)]
    took = seen.last_at - seen.first_at
    made = max(seen.tokens, 1)
    return {
        "tokens/s": seen.tokens / took if took else 0.0,
        "p99 between lines, ms": quantile(seen.gaps_s, 0.99) * 1e3 if seen.gaps_s else 0.0,
        "front-end CPU, us/token": sum(used) / made * 1e6,
        "of it the manager, %": 100 * used[0] / sum(used) if front.others and sum(used) else 0.0,
        "memory, KiB/stream": (most - resident) / streams / 1024,
        "errors": len(seen.errors),
    }


@contextmanager
def started(side: Side, model: Path, pace: float) -> Generator[tuple[Front, int]]:
    """A server over doubles, which has answered once."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        pids = Path(folder)
        prefix = _SET.format(pace=pace, pids=pids, count=side.count)
        with serving(f"{prefix} {side.command}", model, ENGINE, port) as process:
            wait_ready(f"http://127.0.0.1:{port}{side.ready}", process)
            yield front_of(process, pids), port


def many_files() -> None:
    """Let this process and those that it starts have as many connections as there may be."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def measure(side: Side, model: Path, plan: argparse.Namespace) -> dict[int, dict[str, float]]:
    """By streams, the figures of one server."""
    found: dict[int, dict[str, float]] = {}
    with started(side, model, plan.pace) as (front, port):
        uvloop.run(run(side, front, port, min(plan.streams), 16))
        for streams in plan.streams:
            tokens = min(max(16, int(plan.pace * plan.seconds / streams)), 3500)
            found[streams] = uvloop.run(run(side, front, port, streams, tokens))
            print(side.name, streams, json.dumps(found[streams]), file=sys.stderr, flush=True)
    return found


def table(results: dict[str, dict[int, dict[str, float]]]) -> str:
    """Markdown: a row for each figure at each number of streams, a column for each server."""
    names = list(results)
    lines = [f"| streams | | {' | '.join(names)} |", f"| ---: | --- |{' ---: |' * len(names)}"]
    for streams, figures in results[names[0]].items():
        for figure in figures:
            values = " | ".join(f"{results[name][streams][figure]:,.4g}" for name in names)
            lines.append(f"| {streams:,} | {figure} | {values} |")
    return "\n".join(lines)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.front_ends",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pace", type=float, default=100_000, help="tokens/s of all streams together")
    parser.add_argument("--streams", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--seconds", type=float, default=10.0, help="of a run that keeps the pace")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2], help="front ends")
    parser.add_argument("--no-vllm", action="store_true", help="leave vLLM's own server out")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "caravan", help="models")
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    return parser.parse_args()


def main() -> None:
    plan = options()
    described = machine_lines()
    many_files()
    model = build("llama", plan.cache / "models")
    results = {side.name: measure(side, model, plan) for side in sides(plan.counts, vllm=not plan.no_vllm)}
    pace = f"The engine gives {plan.pace:,.0f} tokens/s to all streams together."
    told = f"{described}\n\n{pace}\n\n{table(results)}"
    print(told)
    write_section(plan.markdown, told, MARK)
    if any(figures["errors"] for runs in results.values() for figures in runs.values()):
        sys.exit("errors")


if __name__ == "__main__":
    main()
