"""Caravan beside llama.cpp's server, the engine that Ollama runs: one GGUF, the same prompts, the same
client.

Run it with `python -m bench.peers`. Both are asked as `bench.compare` asks, in turns. They do not compute the
same: llama.cpp works on the quantised weights of the file with kernels made for them, Caravan on what they
are when they are turned into 32-bit numbers, so that a token moves some five times as many bytes through
vLLM. Each uses the cores as it does by default: llama.cpp all of them, Caravan's engine all but one.
"""

import argparse
import asyncio
import io
import os
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from app.catalogue.bundled import bundled
from bench.asking import Results, Side, ollama_body, ollama_counts, openai_body, openai_counts, total
from bench.compare import CARAVAN, compare, table, workloads
from harness.report import machine_lines, write_section
from loadtest.plots import STYLE

MARK = "<!-- bench:peers -->"
SLOTS = 32
CONTEXT = 512
"""Tokens that a slot of llama.cpp has, more than any prompt and answer here take."""
LLAMA = (
    "{llama} bench/llama_server.py --port {{port}} --model {gguf} --slots {slots} --context {context} "
    "--threads {threads}"
)
WITHOUT = ("front-end CPU s / 1,000 tokens",)
"""llama.cpp's front end is one process with its engine."""
PANELS = {"output tokens/s": "output tokens/s", "median TTFT, ms": "median time to first token, ms"}


def sides(plan: argparse.Namespace) -> tuple[Side, Side]:
    llama = LLAMA.format(
        llama=plan.llama, gguf=bundled(plan.cache), slots=SLOTS, context=CONTEXT, threads=plan.threads
    )
    return (
        Side("Caravan", CARAVAN, "/", "/api/chat", ollama_body, ollama_counts),
        Side("llama.cpp", llama, "/health", "/v1/chat/completions", openai_body, openai_counts),
    )


def plot(results: Results, clients: list[int], both: tuple[Side, Side]) -> str:
    """SVG: tokens a second and time to first token, by how many ask at once."""
    with mpl.rc_context(STYLE):
        figure = Figure((9, 3.4), layout="constrained")
        for axes, (key, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            for side in both:
                found = [total(results[side.name, count]).figures()[key] for count in clients]
                axes.plot(clients, found, marker="o", ms=4, label=side.name)
            axes.set(title=title, xlabel="clients", xscale="log", yscale="log", xticks=clients)
            axes.set_xticks(clients, [str(count) for count in clients], minor=False)
            axes.minorticks_off()
            axes.legend()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--llama", required=True, help="a Python that has xllamacpp")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of llama.cpp")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "caravan", help="models")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 32], help="requests at a time")
    parser.add_argument("--seconds", type=float, default=45.0, help="of each, at each concurrency and start")
    parser.add_argument("--rounds", type=int, default=2, help="times that both are started")
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    parser.add_argument("--svg", type=Path, default=Path("docs/images/peers.svg"), help="where the plot goes")
    parser.set_defaults(only="bundled", engine={})
    return parser.parse_args()


def main() -> None:
    plan = options()
    described, both = machine_lines(), sides(plan)
    (load,) = workloads(plan)
    results = asyncio.run(compare(both, load, plan))
    shown = (
        f"`{bundled(plan.cache).name}`, replies of up to {load.tokens} tokens, {plan.rounds} rounds; "
        f"llama.cpp with {SLOTS} slots on {plan.threads} threads:"
    )
    text = "\n\n".join([described, shown, table(results, plan.clients, both, WITHOUT)])
    print(text)
    plan.svg.parent.mkdir(parents=True, exist_ok=True)
    plan.svg.write_text(plot(results, plan.clients, both), "utf-8")
    write_section(plan.markdown, text, MARK)


if __name__ == "__main__":
    main()
