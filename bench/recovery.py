"""How long it takes from the death of an engine to the next good answer, beside a cold start of that engine.

Run it with `python -m bench.recovery`. Both are measured in turns on one running server, from the moment that
a client asks (cold: the model is not loaded) or that a process is killed with signal 9 to the end of a whole
answer. A client that is told that the engine died asks again at once. No death counts for a crash loop here.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

from app.catalogue.bundled import bundled
from app.catalogue.gguf import convert
from bench.compare import CARAVAN, engine_arguments
from bench.servers import NAME, serving
from harness.models.build import build
from harness.ports import free_port
from harness.process import wait_ready
from harness.report import machine_lines, write_section

MARK = "<!-- bench:recovery -->"
ANSWER_S = 120.0
GONE_S = 30.0
ASKED = {
    "model": NAME,
    "messages": [{"role": "user", "content": "Hello"}],
    "stream": False,
    "options": {"temperature": 0, "num_predict": 8},
}


def good_answer(client: httpx.Client) -> float:
    """When a whole answer has come."""
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        answer = client.post("/api/chat", json=ASKED)
        if answer.status_code == 200 and answer.json()["done"]:
            return time.monotonic()
    raise TimeoutError("no good answer")


def engines(server: psutil.Process) -> list[psutil.Process]:
    return [process for process in server.children(recursive=True) if process.name().startswith("VLLM::")]


def cold(client: httpx.Client, server: psutil.Process) -> float:
    gone = engines(server)
    client.post("/api/generate", json={"model": NAME, "keep_alive": 0}).raise_for_status()
    psutil.wait_procs(gone, GONE_S)
    begun = time.monotonic()
    return good_answer(client) - begun


def killed(client: httpx.Client, server: psutil.Process, part: str) -> float:
    (victim,) = (process for process in engines(server) if part in process.name())
    begun = time.monotonic()
    victim.kill()
    return good_answer(client) - begun


def measure(model: Path, dtype: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, by what was done."""
    port = free_port()
    found: dict[str, list[float]] = {"cold start": [], "core killed": [], "worker killed": []}
    command = "env CARAVAN_CRASH_LIMIT=0 CARAVAN_CRASH_WINDOW=1ms " + CARAVAN
    with serving(command, model, engine_arguments(model, {"dtype": dtype}), port) as server:
        wait_ready(f"http://127.0.0.1:{port}/readyz", server)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=ANSWER_S) as client:
            good_answer(client)
            for _ in range(rounds):
                found["cold start"].append(cold(client, server))
                found["core killed"].append(killed(client, server, "EngineCore"))
                found["worker killed"].append(killed(client, server, "Worker"))
    return found


def table(found: dict[str, list[float]]) -> str:
    start = statistics.median(found["cold start"])
    lines = [
        "| | median, s | fastest | slowest | times a cold start |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for what, seconds in found.items():
        median = statistics.median(seconds)
        spread = f"{min(seconds):.2f} | {max(seconds):.2f}"
        lines.append(f"| {what} | {median:.2f} | {spread} | {median / start:.2f} |")
    return "\n".join(lines)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "caravan", help="models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    return parser.parse_args(arguments)


def main() -> None:
    plan = options()
    described = machine_lines()
    models = {
        "smollm2:135m": convert(bundled(plan.cache), plan.cache, lambda _phase, _fraction: None),
        "A tiny Llama": build("llama", plan.cache / "test-models"),
    }
    sections = [described]
    for name, folder in models.items():
        sections += [f"{name}, {plan.rounds} rounds:", table(measure(folder, "float32", plan.rounds))]
    text = "\n\n".join(sections)
    print(text)
    write_section(plan.markdown, text, MARK)


if __name__ == "__main__":
    main()
