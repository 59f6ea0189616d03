"""What models cost that are made FROM a loaded one, and whether an unload gives the memory back.

    python -m bench.derived [--rounds 60] [--models 50] [--cycles 20] [--cache DIR]

Base and derived model are asked in turn, each as often first, with prompts of the same tokens: what one has
as its system prompt the other is sent. Memory is the proportional set size of the server and of all its
processes, at rest. A test holds that nothing is loaded (`tests/api/test_manage.py`); none looks at a clock.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from app.catalogue.bundled import bundled
from app.catalogue.gguf import convert
from bench.compare import CARAVAN, engine_arguments, prompts
from bench.servers import NAME, Body, serving
from harness.models.build import build
from harness.ports import free_port
from harness.process import wait_ready
from harness.report import machine_lines, write_section

MARK = "<!-- bench:derived -->"
MIB = 1 << 20
ANSWER_S = 120.0
LOADS = "caravan_model_loads_total"
_REST_S = 2.0
"""What a server is given to be at rest: a worker that has gone is reaped within it."""
_WARM = 20
"""Answers before anything is measured."""


@dataclass(slots=True)
class Found:
    """Seconds to the first token; loads counted; memory in MiB, of the server and of all its processes."""

    base_s: list[float] = field(default_factory=list[float])
    derived_s: list[float] = field(default_factory=list[float])
    loads: tuple[float, float] = (0, 0)
    one: tuple[float, float] = (0, 0)
    many: tuple[float, float] = (0, 0)
    empty: tuple[float, float] = (0, 0)
    loaded: tuple[float, float] = (0, 0)
    unloaded: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])


@dataclass(frozen=True, slots=True)
class Subject:
    """The server under measurement."""

    client: httpx.Client
    process: psutil.Process

    def memory(self) -> tuple[float, float]:
        """Of the server, and of all its processes, in MiB, once it is at rest."""
        time.sleep(_REST_S)  # other processes: there is nothing to wait on
        whole = server = self.process.memory_full_info().pss
        for child in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                whole += child.memory_full_info().pss
        return server / MIB, whole / MIB

    def first_token_s(self, model: str, prompt: str, system: str = "") -> float:
        body = {
            "model": model,
            "messages": [
                *([{"role": "system", "content": system}] if system else ()),
                {"role": "user", "content": prompt},
            ],
            "options": {"temperature": 0, "num_predict": 4},
        }
        begun = time.monotonic()
        with self.client.stream("POST", "/api/chat", json=body) as answer:
            answer.raise_for_status()
            lines = answer.iter_lines()
            next(lines)
            took_s = time.monotonic() - begun
            for _ in lines:
                pass
        return took_s

    def made(self, name: str, **body: object) -> None:
        asked = {"model": name, "from": NAME, "stream": False, **body}
        self.client.post("/api/create", json=asked).raise_for_status()

    def unload(self) -> None:
        before = self.engines()
        self.client.post("/api/generate", json={"model": NAME, "keep_alive": 0}).raise_for_status()
        psutil.wait_procs(before, ANSWER_S)

    def engines(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for child in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [child] if child.name().startswith("VLLM::") else []
        return found

    def loads(self) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(LOADS))


def measure(model: Path, plan: argparse.Namespace) -> Found:
    engine: Body = {"dtype": "float32", "kv_cache_memory_bytes": 256 * MIB}
    port, found = free_port(), Found()
    with TemporaryDirectory() as store:
        command = f"env CARAVAN_MODELS_DIR={store} CARAVAN_PRELOAD=false CARAVAN_KEEP_ALIVE=-1 {CARAVAN}"
        with serving(command, model, engine_arguments(model, engine), port) as process:
            url = f"http://127.0.0.1:{port}"
            wait_ready(f"{url}/livez", process)
            with httpx.Client(base_url=url, timeout=ANSWER_S) as client:
                subject = Subject(client, process)
                _share(subject, plan, found)
                _cycle(subject, plan, found)
    return found


def _share(subject: Subject, plan: argparse.Namespace, found: Found) -> None:
    systems = [f"You are poet number {number}." for number in range(plan.models)]
    texts = iter(prompts(_WARM + 2 * plan.rounds + plan.models, 0))
    subject.made("derived", system=systems[0])
    for _ in range(_WARM):
        subject.first_token_s("derived", next(texts))
    found.one = subject.memory()
    before = subject.loads()
    for number in range(plan.rounds):
        asked = [
            lambda text: found.base_s.append(subject.first_token_s(NAME, text, systems[0])),
            lambda text: found.derived_s.append(subject.first_token_s("derived", text)),
        ]
        for ask in asked if number % 2 else asked[::-1]:
            ask(next(texts))
    for number, system in enumerate(systems):
        subject.made(f"m{number}", system=system)
        subject.first_token_s(f"m{number}", next(texts))
    found.loads = before, subject.loads()
    found.many = subject.memory()


def _cycle(subject: Subject, plan: argparse.Namespace, found: Found) -> None:
    """The first load imports what stays; from then on what is taken must come back."""
    subject.unload()
    found.empty = subject.memory()
    for number, text in enumerate(prompts(plan.cycles, 10_000)):
        subject.first_token_s(NAME, text)
        if not number:
            found.loaded = subject.memory()
        subject.unload()
        found.unloaded.append(subject.memory())


def table(found: Found) -> str:
    base, derived = statistics.median(found.base_s), statistics.median(found.derived_s)
    taken = found.loaded[1] - found.empty[1]
    back = 100 * (found.loaded[1] - found.unloaded[0][1]) / taken
    sizes = [whole for _, whole in found.unloaded]
    rows = {
        "loads counted, before and after": f"{found.loads[0]:.0f} and {found.loads[1]:.0f}",
        "median time to first token of the base, ms": f"{base * 1000:.1f}",
        "of the derived model, ms": f"{derived * 1000:.1f} ({derived / base:.2f} of it)",
        "memory of the server with one derived model, MiB": f"{found.one[0]:.0f}",
        "with all of them, MiB": f"{found.many[0]:.0f} ({_more(found.one[0], found.many[0])})",
        "memory of all processes with one, MiB": f"{found.one[1]:.0f}",
        "with all, MiB": f"{found.many[1]:.0f} ({_more(found.one[1], found.many[1])})",
        "memory of all processes unloaded, loaded, unloaded again, MiB": (
            f"{found.empty[1]:.0f}, {found.loaded[1]:.0f}, {sizes[0]:.0f}: {back:.1f} % of it is back"
        ),
        f"unloaded after {len(sizes)} cycles, MiB": f"{sizes[-1]:.0f} ({_more(found.empty[1], sizes[-1])})",
    }
    return "\n".join(["| | |", "| --- | ---: |", *(f"| {what} | {value} |" for what, value in rows.items())])


def _more(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %"


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.derived", description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "caravan", help="models")
    parser.add_argument("--rounds", type=int, default=60, help="questions to each of the two")
    parser.add_argument("--models", type=int, default=50, help="derived models on one engine")
    parser.add_argument("--cycles", type=int, default=20, help="loads and unloads")
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    return parser.parse_args(arguments)


def main() -> None:
    plan = options()
    sections = [machine_lines()]
    models = {
        "A tiny Llama": build("llama", plan.cache / "test-models"),
        "smollm2:135m": convert(bundled(plan.cache), plan.cache, lambda _phase, _fraction: None),
    }
    for name, folder in models.items():
        about = f"{plan.rounds} questions to each, {plan.models} derived models, {plan.cycles} cycles"
        sections += [f"{name}, {about}:", table(measure(folder, plan))]
        print(*sections[-2:], sep="\n\n", flush=True)
    write_section(plan.markdown, "\n\n".join(sections), MARK)


if __name__ == "__main__":
    main()
