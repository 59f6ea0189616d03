"""What the chart's gateway costs, and what sending a conversation to the replica that knows it gains.

Run it with `python -m bench.gateway`. Cost: one server over an engine that takes its time per token and none
of the machine's, asked directly and through the Envoy that the chart configures, in turns. Gain: two replicas
of the bundled model behind two such Envoys, one with affinity and one without, and chats that grow by a
question a turn.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.catalogue.bundled import bundled
from app.catalogue.gguf import convert
from bench.asking import (
    Measured,
    Side,
    answer_of,
    ask,
    ollama_body,
    ollama_counts,
    quantile,
    wave,
)
from bench.compare import engine_arguments, prompts
from bench.overload import FAKE, FAKE_TOKENS
from bench.servers import NAME, Body, serving
from harness.envoy import gateway
from harness.ports import free_port
from harness.process import wait_ready
from harness.report import machine_lines, write_section

MARK = "<!-- bench:gateway -->"
OPEN = "env CARAVAN_HOST=0.0.0.0 "  # Envoy's health checks name another host than this one
CARAVAN = OPEN + "{python} -m app.cli serve --port {port} --config {config}"
CLIENTS, SLOTS = 16, 16
MOST_MS, MOST_SHARE = 2.0, 0.02
WORDS = ("river", "stone", "lamp", "winter", "garden", "paper", "cloud", "bridge", "music", "copper")


def side(name: str) -> Side:
    return Side(name, "", "/", "/api/chat", ollama_body, ollama_counts)


@contextmanager
def through_envoy(ports: Sequence[int], *, affinity: bool) -> Generator[int]:
    """The port of the gateway in front of these servers."""
    values = {"models": [{"name": NAME, "source": "any"}], "gateway": {"cacheAffinity": affinity}}
    with (
        tempfile.TemporaryDirectory() as scratch,
        gateway(values, {NAME: ports}, free_port(), Path(scratch)) as made,
    ):
        yield made.port


@contextmanager
def servers(
    command: str, count: int, model: Path, engine: Body
) -> Generator[list[tuple[psutil.Process, int]]]:
    """So many servers that are ready."""
    with ExitStack() as stack:
        started: list[tuple[psutil.Process, int]] = []
        for _ in range(count):
            port = free_port()
            started.append((stack.enter_context(serving(command, model, engine, port)), port))
        for process, port in started:
            wait_ready(f"http://127.0.0.1:{port}/readyz", process)
        yield started


async def in_turns(ports: Mapping[str, int], pairs: int) -> dict[str, list[float]]:
    """Seconds to the first token of one request at a time, first one way, then the other."""
    found: dict[str, list[float]] = {name: [] for name in ports}
    for number in range(-2, pairs):  # the first ones warm up
        for name in sorted(ports, reverse=bool(number % 2)):
            first, received = await ask(side(name), ports[name], ollama_body("Hi", FAKE_TOKENS))
            ollama_counts(answer_of(received))
            found[name] += [first] if number >= 0 else []
    return found


def cost(plan: argparse.Namespace) -> tuple[str, bool]:
    """The table of both ways, and whether the gateway costs no more than it may."""
    command = OPEN + FAKE.format(slots=SLOTS, queue=64)
    crowds = {"direct": Measured(), "gateway": Measured()}
    with (
        servers(command, 1, Path(), {}) as [(process, port)],
        through_envoy([port], affinity=True) as front,
    ):
        ports = {"direct": port, "gateway": front}
        alone = asyncio.run(in_turns(ports, plan.turns * 10))
        for turn in range(plan.turns + 1):
            for name in sorted(ports, reverse=bool(turn % 2)):
                asked = prompts(6 * CLIENTS, 0)
                crowd = asyncio.run(wave(side(name), process, ports[name], CLIENTS, asked, FAKE_TOKENS))
                if turn:  # the first one warms up
                    crowds[name].add(crowd)
    rates = {name: each.tokens / each.seconds for name, each in crowds.items()}
    medians = {name: 1e3 * statistics.median(each) for name, each in alone.items()}
    rows = {
        "median TTFT, one client, ms": medians,
        "p90 TTFT, one client, ms": {name: 1e3 * quantile(each, 0.9) for name, each in alone.items()},
        f"median TTFT, {CLIENTS} clients, ms": {
            name: 1e3 * statistics.median(each.first_s) for name, each in crowds.items()
        },
        f"output tokens/s, {CLIENTS} clients": rates,
    }
    lines = ["| | direct | through the gateway | difference |", "| --- | ---: | ---: | ---: |"]
    for name, found in rows.items():
        direct, fronted = found["direct"], found["gateway"]
        change = f"{fronted - direct:+.2f} ms" if "ms" in name else f"{100 * (fronted / direct - 1):+.1f} %"
        lines.append(f"| {name} | {direct:.2f} | {fronted:.2f} | {change} |")
    is_cheap = medians["gateway"] - medians["direct"] <= MOST_MS
    return "\n".join(lines), is_cheap and rates["gateway"] >= (1 - MOST_SHARE) * rates["direct"]


@dataclass
class Chats:
    """Seconds to the first token of every turn but the first, and prompt tokens that the caches held."""

    later_s: list[float] = field(default_factory=list[float])
    hits: float = 0.0
    queries: float = 0.0


def counted(ports: Sequence[int]) -> tuple[float, float]:
    """Prompt tokens that vLLM found cached, and those it looked for, of all servers so far."""
    totals = [0.0, 0.0]
    for port in ports:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
        for place, name in enumerate(("hits", "queries")):
            found = re.findall(rf"^vllm:prefix_cache_{name}_total(?:{{.*}})? (\S+)$", text, re.MULTILINE)
            totals[place] += sum(map(float, found))
    return totals[0], totals[1]


async def chat(port: int, seed: str, turns: int, seen: Chats) -> None:
    """A question a turn, each with all that was said before."""
    chance = random.Random(seed)
    said: list[Body] = []
    for turn in range(turns):
        said.append({"role": "user", "content": " ".join(chance.choices(WORDS, k=120))})
        body = {"model": NAME, "messages": said, "options": {"temperature": 0, "num_predict": 12}}
        first, received = await ask(side("chat"), port, body)
        lines = [json.loads(line) for line in answer_of(received).splitlines()]
        said.append({"role": "assistant", "content": "".join(line["message"]["content"] for line in lines)})
        if turn:
            seen.later_s.append(first)


async def chats(port: int, name: str, count: int, turns: int) -> Chats:
    """Two at a time; no two begin alike."""
    seen, waiting = Chats(), iter(range(count))

    async def user() -> None:
        for number in waiting:
            await chat(port, f"{name} {number}", turns, seen)

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(user())
    return seen


def gain(plan: argparse.Namespace) -> str:
    folder = convert(bundled(plan.cache), plan.cache, lambda _phase, _fraction: None)
    engine = engine_arguments(folder, {"dtype": "float32", "kv_cache_memory_bytes": 512 << 20})
    found = {"without": Chats(), "with": Chats()}
    with (
        servers(CARAVAN, 2, folder, engine) as started,
        through_envoy([port for _, port in started], affinity=False) as blind,
        through_envoy([port for _, port in started], affinity=True) as knowing,
    ):
        ports = [port for _, port in started]
        for port in ports:
            asyncio.run(chats(port, f"warm {port}", 1, 1))
        for turn in range(2):
            for name, front in (("without", blind), ("with", knowing)):
                before = counted(ports)
                seen = asyncio.run(chats(front, f"{name} {turn}", plan.chats // 2, plan.length))
                after = counted(ports)
                found[name].later_s += seen.later_s
                found[name].hits += after[0] - before[0]
                found[name].queries += after[1] - before[1]
    lines = [
        f"| {plan.chats} chats of {plan.length} turns on 2 replicas | without affinity | with affinity |",
        "| --- | ---: | ---: |",
    ]
    rows = [
        ("prompt tokens found in the prefix cache", lambda c: f"{100 * c.hits / c.queries:.0f} %"),
        ("median TTFT of later turns, ms", lambda c: f"{1e3 * statistics.median(c.later_s):.0f}"),
        ("p90 TTFT of later turns, ms", lambda c: f"{1e3 * quantile(c.later_s, 0.9):.0f}"),
    ]
    lines += [f"| {name} | {show(found['without'])} | {show(found['with'])} |" for name, show in rows]
    return "\n".join(lines)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--turns", type=int, default=4, help="turns of each way to the server")
    parser.add_argument("--chats", type=int, default=8, help="chats with and without affinity")
    parser.add_argument("--length", type=int, default=5, help="turns of a chat")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "caravan", help="models")
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the tables go")
    return parser.parse_args(arguments)


def main() -> None:
    plan = options()
    described = machine_lines()
    costs, is_cheap = cost(plan)
    shown = f"A scripted engine of {SLOTS} slots that takes 20 ms a token, {plan.turns} turns each way:"
    print(costs, flush=True)
    gains = gain(plan)
    engine = "`smollm2:135m` on vLLM, both replicas on this machine; a question is 120 words:"
    text = "\n\n".join([described, shown, costs, engine, gains])
    print(gains)
    write_section(plan.markdown, text, MARK)
    if not is_cheap:
        sys.exit(f"the gateway costs more than it may: {MOST_MS} ms of TTFT, {MOST_SHARE:.0%} of throughput")


if __name__ == "__main__":
    main()
