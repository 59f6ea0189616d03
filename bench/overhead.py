"""What keys, limits and telemetry cost: Caravan with all of them beside Caravan with none, taking turns.

Run it with `python -m bench.overhead`. The model is tiny, so that the server is what costs; engine, prompts
and client are those of `bench.compare`.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.asking import Results, Side, Workload, ollama_body, ollama_counts, total
from bench.compare import (
    CARAVAN,
    TINY,
    TINY_APART_S,
    by_start,
    compare,
    engine_arguments,
    one_story,
    table,
    unequal,
)
from harness.models.build import build
from harness.report import machine_lines, write_section

MARK = "<!-- bench:overhead -->"
LEAST_KEPT = 0.97
MOST_TTFT_MS = 1.0
_AMPLE = 1_000_000_000
"""A limit that is checked and never reached."""

_WHAT = (
    "*Operated* has a key with limits on requests, tokens and concurrency, OTLP export to a receiver on this "
    "machine and a JSON log line a request; *plain* has none of it."
)
_EQUAL = "Both are *plain*: what differs here is chance."


class NothingSent(Exception):
    """Telemetry that was to be exported and was not: the comparison would be of nothing."""


@dataclass(slots=True)
class Receiver:
    """Counts what an OTLP exporter sends it."""

    port: int = 0
    requests: int = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
                await reader.readexactly(int(fields.get(b"content-length", b"0")))
                self.requests += 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the exporter has ended, or the benchmark
        finally:
            writer.close()


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver, None]:
    receiver = Receiver()
    async with await asyncio.start_server(receiver.answer, "127.0.0.1", 0) as server:
        receiver.port = server.sockets[0].getsockname()[1]
        yield receiver


def make_key(folder: Path) -> tuple[Path, str]:
    """A file with one key, whose every limit is far away, and the key."""
    file = folder / "keys.yaml"
    limits = ("--requests-per-minute", "--tokens-per-minute", "--concurrent-requests")
    made = subprocess.run(
        [sys.executable, "-m", "app.cli", "keys", "create", "--id", "bench", "--file", str(file)]
        + [word for limit in limits for word in (limit, str(_AMPLE))],
        check=True,
        capture_output=True,
        text=True,
    )
    return file, made.stdout.split()[-1]


def sides(keys: Path, key: str, receiver: Receiver) -> tuple[Side, Side]:
    settings = {
        "CARAVAN_KEYS_FILE": keys,
        "CARAVAN_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
    }
    operated = " ".join(["env", *(f"{name}={value}" for name, value in settings.items()), CARAVAN])
    bearer = f"Authorization: Bearer {key}\r\n"
    return Side("operated", operated, "/", "/api/chat", ollama_body, ollama_counts, bearer), plain()


def plain() -> Side:
    command = f"env OTEL_SDK_DISABLED=true {CARAVAN}"
    return Side("plain", command, "/", "/api/chat", ollama_body, ollama_counts)


async def measure(load: Workload, plan: argparse.Namespace) -> tuple[Results, tuple[Side, Side]]:
    if plan.noise:
        twins = replace(plain(), name="operated"), plain()
        return await compare(twins, load, plan), twins
    with TemporaryDirectory() as folder:
        keys, key = make_key(Path(folder))
        async with receiving() as receiver:
            both = sides(keys, key, receiver)
            found = await compare(both, load, plan)
            if not receiver.requests:
                raise NothingSent
    return found, both


def verdict(results: Results, clients: int) -> str:
    operated, plain = (total(results[name, clients]) for name in ("operated", "plain"))
    kept = (operated.tokens / operated.seconds) / (plain.tokens / plain.seconds)
    later_ms = (statistics.median(operated.first_s) - statistics.median(plain.first_s)) * 1e3
    reached = kept >= LEAST_KEPT and later_ms <= MOST_TTFT_MS
    return (
        f"Operated, throughput is {kept:.3f} of plain (aim: at least {LEAST_KEPT:g}) and the median time to "
        f"first token {later_ms:+.2f} ms (aim: at most {MOST_TTFT_MS:g} more): "
        f"{'reached' if reached else '**not reached**'}."
    )


def report(results: Results, both: Sequence[Side], load: Workload, plan: argparse.Namespace) -> str:
    return "\n\n".join(
        (
            machine_lines(),
            f"A tiny Llama of 105,000 parameters, replies of up to {load.tokens} tokens, {plan.rounds} starts"
            f" with {plan.seconds:g} s for each, engine `{json.dumps(load.engine)}`. "
            + (_EQUAL if plan.noise else _WHAT),
            table(results, plan.clients, both),
            by_start(results, plan.clients, both),
            verdict(results, plan.clients[0]),
            *(f"**Not equal**: {text}" for text in unequal(results, plan.clients, both)),
        )
    )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "caravan", help="models")
    parser.add_argument("--clients", type=int, nargs=1, default=[32], help="requests at a time")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each, at each start")
    parser.add_argument("--rounds", type=int, default=6, help="times that both are started")
    parser.add_argument("--noise", action="store_true", help="measure two equal servers instead")
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    return parser.parse_args()


def main() -> None:
    plan = options()
    model = build("llama", plan.cache / "test-models")
    engine = engine_arguments(model, {"dtype": "float32"})
    load = Workload(TINY, model, one_story, 512, engine, TINY_APART_S)
    results, both = asyncio.run(measure(load, plan))
    text = report(results, both, load, plan)
    print(text)
    write_section(plan.markdown, text, MARK)


if __name__ == "__main__":
    main()
