"""More requests than Caravan can serve: how much good work is still done, and how soon the rest is refused.

Run it with `python -m bench.overload`. It starts the server as a process of its own and plays its clients,
over real sockets, each request on a new connection. First the capacity: twice as many clients as the engine
has slots, each sending its next request when it has its answer. Then requests arrive at random at multiples
of that rate, whether or not earlier ones are answered; the most good work done at one of the lower rates is
the peak. The rates take turns, so that a machine that gets slower or faster does so for all of them. Only
whole answers count as goodput. Last, on a server with keys, one floods and another asks (`bench.fairness`).

Three engines, on the machine of the server and its clients: `fake` takes its time per token and none of the
machine's, so the front end is what is measured; `bundled` is vLLM with SmolLM2-135M, whose worker computes on
one core; `tiny` is vLLM with a model so small that its processes fill two cores, which clients then take from
it.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.catalogue.bundled import bundled
from app.catalogue.gguf import convert
from bench.asking import answer_of, quantile
from bench.fairness import fairness, keys
from bench.servers import NAME, Body, cpu_seconds, serving
from harness.models.build import build
from harness.ports import free_port
from harness.process import wait_ready
from harness.report import machine_lines, write_section

MARK = "<!-- bench:overload -->"
REAL = "env CARAVAN_MAX_QUEUE={queue}{keys} {{python}} -m app.cli serve --port {{port}} --config {{config}}"
FAKE = "{{python}} -m bench.overload --serve {{port}} --slots {slots} --queue {queue}{keys}"
BUSY = b"server busy, please try again.  maximum pending requests exceeded"
FAKE_TOKENS, FAKE_TOKEN_S = 20, 0.02
TOKENS = {"fake": FAKE_TOKENS, "tiny": 128, "bundled": 16}
PEAKS_AT = (1.0, 1.5, 2.0)
"""Rates of arrival, in capacities, of which the best makes the peak."""
RAMP_S = 3.0
REPLY_S = 120.0


class BadAnswer(Exception):
    """Neither a whole answer nor a refusal for a full queue."""


@dataclass(slots=True)
class Load:
    """What came of the requests: when each good answer began and ended, and how long each good one and each
    refusal took."""

    answers: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    served_s: list[float] = field(default_factory=list[float])
    refused_s: list[float] = field(default_factory=list[float])

    def goodput(self, start: float, end: float) -> float:
        """Good answers a second. One that reaches over the bounds counts by its part within: answers that
        were batched together end together, and whole ones would count by the batch."""
        parts = ((min(last, end) - max(first, start)) / (last - first) for first, last in self.answers)
        return sum(part for part in parts if part > 0) / (end - start)


async def ask(port: int, body: bytes, load: Load) -> None:
    """One request; its time counts from before its connection is made."""
    head = (
        "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    start = time.perf_counter()
    async with asyncio.timeout(REPLY_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + body)
            received = await reader.readline()
            first = time.perf_counter()
            received += await reader.read(-1)
        finally:
            writer.close()
    end = time.perf_counter()
    if received.startswith(b"HTTP/1.1 503 ") and BUSY in received:
        load.refused_s.append(end - start)
    elif json.loads(answer_of(received).splitlines()[-1]).get("done"):
        load.served_s.append(end - start)
        load.answers.append((first, end))
    else:
        raise BadAnswer(received[-500:].decode(errors="replace"))


async def closed(port: int, body: bytes, clients: int, seconds: float) -> float:
    """Goodput of so many clients, each with one request at a time."""
    load = Load()
    start = time.perf_counter()
    end = start + RAMP_S + seconds

    async def client() -> None:
        while time.perf_counter() < end:
            await ask(port, body, load)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    if load.refused_s:
        raise BadAnswer("the queue is shorter than the number of clients")
    return load.goodput(start + RAMP_S, end)


async def arriving(port: int, body: bytes, rate: float, seconds: float, load: Load) -> float:
    """Goodput while requests arrive at this rate; what came of them is added to `load`."""
    earlier, chance = len(load.answers), random.Random(0)
    start = time.perf_counter()
    end, due = start + RAMP_S + seconds, start
    async with asyncio.TaskGroup() as group:
        while (due := due + chance.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(ask(port, body, load))
    return Load(load.answers[earlier:]).goodput(start + RAMP_S, end)


async def measure(command: str, model: Path, engine: Body, body: Body, plan: argparse.Namespace) -> Body:
    port = free_port()
    asked = json.dumps(body).encode()
    rates = (*PEAKS_AT, plan.times)
    with serving(command, model, engine, port) as process:
        await asyncio.to_thread(wait_ready, f"http://127.0.0.1:{port}", process)
        await ask(port, asked, Load())
        capacity = await closed(port, asked, 2 * plan.slots, plan.seconds)
        found: dict[float, list[float]] = {times: [] for times in rates}
        overloaded, cpu_s = Load(), 0.0
        for number in range(plan.rounds):
            for times in rates if number % 2 else rates[::-1]:
                load = overloaded if times == plan.times else Load()
                before = cpu_seconds(process)
                found[times].append(await arriving(port, asked, times * capacity, plan.seconds, load))
                if load is overloaded:
                    cpu_s += cpu_seconds(process) - before
    good = {times: sum(each) / plan.rounds for times, each in found.items()}
    return {
        "capacity: clients that wait for their answers, requests/s": capacity,
        **{f"goodput at {times:g} times the capacity, requests/s": good[times] for times in rates},
        "of the peak": good[plan.times] / max(good[times] for times in PEAKS_AT),
        "served": len(overloaded.served_s),
        "refused": len(overloaded.refused_s),
        "median time of a refusal, ms": 1000 * quantile(overloaded.refused_s, 0.5),
        "p99 time of a refusal, ms": 1000 * quantile(overloaded.refused_s, 0.99),
        "longest refusal, ms": 1000 * max(overloaded.refused_s),
        "p99 time of an answer, ms": 1000 * quantile(overloaded.served_s, 0.99),
        "front-end CPU, cores": cpu_s / plan.rounds / (RAMP_S + plan.seconds),
    }


async def measure_keys(
    command: str, model: Path, engine: Body, body: Body, plan: argparse.Namespace, keyed: dict[str, str]
) -> Body:
    port = free_port()
    with serving(command, model, engine, port) as process:
        await asyncio.to_thread(wait_ready, f"http://127.0.0.1:{port}", process)
        return await fairness(port, json.dumps(body).encode(), keyed, flood=plan.flood, count=plan.asked)


def chat(tokens: int) -> Body:
    return {
        "model": NAME,
        "messages": [{"role": "user", "content": "Write a long story."}],
        "options": {"temperature": 0, "num_predict": tokens},
    }


def run(name: str, plan: argparse.Namespace) -> Body:
    engine: Body = {
        "dtype": "float32",
        "max_model_len": 1024,
        "max_num_seqs": plan.slots,
        "kv_cache_memory_bytes": 512 << 20,
    }
    if name == "fake":
        command, flag, model, engine = FAKE, " --keys {}", Path(), Body()
    elif name == "tiny":
        command, flag = REAL, " CARAVAN_KEYS_FILE={}"
        model = build("llama", plan.cache / "test-models")
    else:
        command, flag = REAL, " CARAVAN_KEYS_FILE={}"
        model = convert(bundled(plan.cache), plan.cache, lambda _phase, _fraction: None)
    body = chat(TOKENS[name])
    found: Body = {}
    if not plan.only_keys:
        plain = command.format(slots=plan.slots, queue=plan.queue, keys="")
        found = asyncio.run(measure(plain, model, engine, body, plan))
    with keys() as (file, keyed):
        guarded = command.format(slots=plan.slots, queue=plan.flood, keys=flag.format(file))
        return found | asyncio.run(measure_keys(guarded, model, engine, body, plan, keyed))


def table(found: dict[str, Body]) -> str:
    names = list(found)
    lines = [f"| | {' | '.join(f'`{name}`' for name in names)} |", "| --- |" + " ---: |" * len(names)]
    for row in found[names[0]]:
        lines.append(f"| {row} | {' | '.join(_figure(found[name][row]) for name in names)} |")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument(
        "--engine", nargs="+", choices=["fake", "bundled", "tiny"], default=["fake", "bundled"]
    )
    parser.add_argument("--slots", type=int, default=16, help="requests the engine works on at once")
    parser.add_argument("--queue", type=int, default=32, help="requests that may wait: OLLAMA_MAX_QUEUE")
    parser.add_argument("--times", type=float, default=4.0, help="the overload, in capacities")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each rate")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "caravan", help="models")
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    parser.add_argument("--flood", type=int, default=500, help="requests of the key that floods")
    parser.add_argument("--asked", type=int, default=60, help="requests of the other key")
    parser.add_argument("--only-keys", action="store_true", help="measure the keys alone; writes nothing")
    parser.add_argument("--keys", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    plan = options()
    if plan.serve:
        from bench.fake_server import serve

        reply = [" word"] * FAKE_TOKENS
        given: Body = {"max_queue": plan.queue, "keys_file": plan.keys}
        serve(plan.serve, reply, delay_s=FAKE_TOKEN_S, slots=plan.slots, **given)
        return
    described = machine_lines()
    found = {name: run(name, plan) for name in plan.engine}
    turns = f"{plan.rounds} turns of {plan.seconds:g} s of each rate"
    shown = f"{plan.slots} slots, a queue of {plan.queue}, {turns}:"
    text = "\n\n".join([described, shown, table(found)])
    print(text)
    if any(each["times as long"] > 2 for each in found.values()):
        print("a key waits longer than it may while another floods", file=sys.stderr)
    if plan.only_keys:
        return
    write_section(plan.markdown, text, MARK)
    if any(each["of the peak"] < 0.95 or each["p99 time of a refusal, ms"] > 50 for each in found.values()):
        sys.exit("overload costs more than it may: goodput at least 0.95 of its peak, refusals within 50 ms")


if __name__ == "__main__":
    main()
