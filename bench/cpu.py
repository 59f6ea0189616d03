"""What could make an engine on a CPU faster, each beside the others: the bundled model, one after the other.

    python -m bench.cpu [--rounds 2] [--without bfloat16 ...] [--cache DIR]

Each way is an engine of Caravan's own server, started alone; in every second round they come in the opposite
order. The tokens are greedy, so an answer that differs from the one in float32 differs by the arithmetic.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from app.catalogue.bundled import bundled
from app.catalogue.gguf import convert
from bench.asking import Measured, Side, ask, ollama_body, ollama_counts, total, wave
from bench.compare import CARAVAN, engine_arguments, prompts
from bench.servers import Body, serving
from harness.ports import free_port
from harness.process import wait_ready
from harness.report import machine_lines, write_section

MARK = "<!-- bench:cpu -->"
_ASKED_AGAIN = 8
"""Prompts whose answers are compared."""
_INT8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}
"""What llm-compressor writes for W8A8 with scales by channel and by token."""


@dataclass(frozen=True, slots=True)
class Way:
    """An engine: its arguments, variables of the environment, and whether its weights are int8."""

    name: str
    engine: Body = field(default_factory=dict[str, object])
    variables: str = ""
    is_int8: bool = False

    def side(self) -> Side:
        command = f"env {self.variables} {CARAVAN}" if self.variables else CARAVAN
        return Side(self.name, command, "/readyz", "/api/chat", ollama_body, ollama_counts)


_ALL_CORES = "VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS={cores}"
_NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4, "prompt_lookup_min": 2}


def ways(cores: int, without: Collection[str]) -> list[Way]:
    every = _ALL_CORES.format(cores=cores)
    all_of_them = [
        Way("float32, as it is served"),
        Way("float32, a thread on each core", variables=every),
        Way("float32, n-gram speculation", {"speculative_config": _NGRAM}),
        Way("bfloat16", {"dtype": "bfloat16"}),
        Way("bfloat16, a thread on each core", {"dtype": "bfloat16"}, every),
        Way("int8 weights and activations", is_int8=True),
        Way("int8, a thread on each core", variables=every, is_int8=True),
    ]
    return [way for way in all_of_them if not any(part in way.name for part in without)]


def quantised(folder: Path, target: Path) -> Path:
    """The same model with the weights of its layers rounded to int8, each output channel by its largest."""
    shutil.copytree(folder, target)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            tensors[name] = tensor
            continue
        weight = tensor.float()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
        tensors[name] = (weight / scale).round().to(torch.int8)
        tensors[name.replace(".weight", ".weight_scale")] = scale
    save_file(tensors, target / "model.safetensors")
    config = json.loads((target / "config.json").read_text("utf-8"))
    (target / "config.json").write_text(json.dumps(config | {"quantization_config": _INT8}), "utf-8")
    return target


@dataclass(slots=True)
class Found:
    """By clients what each start measured, and the answers to the same prompts."""

    measured: dict[int, list[Measured]] = field(default_factory=dict[int, list[Measured]])
    answers: list[str] = field(default_factory=list[str])


async def measure(way: Way, folder: Path, plan: argparse.Namespace, round_number: int, found: Found) -> None:
    """One start of `way`."""
    engine = engine_arguments(folder, {"dtype": "float32"} | way.engine)
    port, side = free_port(), way.side()
    with serving(side.command, folder, engine, port) as process:
        await asyncio.to_thread(wait_ready, f"http://127.0.0.1:{port}{side.ready}", process)
        await wave(side, process, port, 4, prompts(4, 10**6), 16)
        for clients in plan.clients:
            asked = prompts(max(plan.least, clients), (round_number * 100 + clients) * 1000)
            figures = await wave(side, process, port, clients, asked, plan.tokens)
            found.measured.setdefault(clients, []).append(figures)
            print(way.name, clients, figures.figures(), file=sys.stderr, flush=True)
        if not found.answers:
            found.answers = [
                _text((await ask(side, port, side.body(prompt, plan.tokens)))[1])
                for prompt in prompts(_ASKED_AGAIN, 0)
            ]


def _text(received: bytes) -> str:
    lines = [line for line in received.split(b"\n") if line.startswith(b"{")]
    return "".join(json.loads(line)["message"]["content"] for line in lines)


def table(results: dict[str, Found], clients: Sequence[int]) -> str:
    """Markdown: a row for each way; in brackets what it is of the first."""
    lines = [
        f"| tokens/s with | {' | '.join(map(str, clients))} | same answers |",
        f"| --- |{' ---: |' * (len(clients) + 1)}",
    ]
    first = next(iter(results.values()))
    for name, found in results.items():
        cells = [name]
        for count in clients:
            speed = total(found.measured[count]).figures()["output tokens/s"]
            base = total(first.measured[count]).figures()["output tokens/s"]
            cells.append(f"{speed:,.4g} ({speed / base:.2f})")
        same = sum(ours == theirs for ours, theirs in zip(found.answers, first.answers, strict=True))
        lines.append(f"| {' | '.join([*cells, f'{same} of {len(first.answers)}'])} |")
    return "\n".join(lines)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2, help="starts of each")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 32], help="requests at a time")
    parser.add_argument("--tokens", type=int, default=64, help="of a reply at most")
    parser.add_argument("--least", type=int, default=4, help="replies that are asked for at least")
    parser.add_argument("--without", nargs="+", default=[], help="parts of the names of ways to leave out")
    parser.add_argument("--cores", type=int, default=2, help="threads where there is one on each core")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "caravan", help="models")
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    return parser.parse_args()


def main() -> None:
    plan = options()
    described = machine_lines()
    plain = convert(bundled(plan.cache), plan.cache, lambda _phase, _fraction: None)
    chosen = ways(plan.cores, plan.without)
    results: dict[str, Found] = {each.name: Found() for each in chosen}
    with tempfile.TemporaryDirectory() as scratch:
        int8 = quantised(plain, Path(scratch, "int8"))
        for number in range(plan.rounds):
            for way in chosen[:: -1 if number % 2 else 1]:
                folder = int8 if way.is_int8 else plain
                asyncio.run(measure(way, folder, plan, number, results[way.name]))
    shown = f"Replies of up to {plan.tokens} tokens, {plan.rounds} starts of each:"
    told = "\n\n".join([described, shown, table(results, plan.clients)])
    print(told)
    write_section(plan.markdown, told, MARK)


if __name__ == "__main__":
    main()
