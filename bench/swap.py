"""Two chat models and an embedder on a budget that holds two of them, under mixed requests.

    python -m bench.swap [--requests 200] [--clients 3] [--cache DIR]

First each model is loaded alone, so that its need is known; then the server is started with a budget of the
two largest. What counts: no error, never over the budget, and every swap told in the metrics.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.core.device import gib
from harness.models.build import build
from harness.ports import free_port
from harness.process import offline, running, wait_ready
from harness.report import machine_lines, write_section
from harness.server import embedding_model

MARK = "<!-- bench:swap -->"
MIB = 1 << 20
CHAT = {"dtype": "float32", "kv_cache_memory_bytes": 256 * MIB, "max_num_seqs": 8}
PATIENCE_S = 3
_LOOK_S = 0.2
_MORE = 1.04


def models(cache: Path) -> list[dict[str, Any]]:
    return [
        {"name": "a", "source": str(build("llama", cache / "models")), "engine": CHAT},
        {"name": "b", "source": "bundled", "engine": {**CHAT, "dtype": "bfloat16", "max_model_len": 2048}},
        {"name": "e", "source": str(embedding_model(cache)), "engine": {}},
    ]


@contextmanager
def serving(cache: Path, scratch: Path, budget: int = 0) -> Generator[str]:
    """A server with the models and a cache folder of this run, in which needs are kept."""
    config, port = scratch / "caravan.yaml", free_port()
    config.write_text(
        yaml.safe_dump(
            {
                "models": models(cache),
                "preload": False,
                "cache_dir": str(scratch / "cache"),
                "memory_bytes": budget,
                "load_patience": PATIENCE_S,
                "keep_alive": -1,
            }
        )
    )
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--config", str(config)]
    with running(command, scratch / "log", offline()) as process:
        wait_ready(url, process)
        yield url


async def ask(client: httpx.AsyncClient, name: str) -> str:
    """One short request; what was wrong with its answer, empty if nothing was."""
    if name == "e":
        answer = await client.post("/api/embed", json={"model": "e", "input": "one two three"})
        return "" if answer.status_code == 200 else answer.text
    body = {"model": name, "prompt": "Once", "stream": False, "options": {"num_predict": 8, "seed": 1}}
    answer = await client.post("/api/generate", json=body)
    done = answer.status_code == 200 and answer.json().get("done")
    return "" if done else answer.text


async def gauges(client: httpx.AsyncClient) -> dict[str, float]:
    """The sums of `caravan_device_memory_bytes` by state, and of unloads by reason."""
    found: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families((await client.get("/metrics")).text):
        for sample in family.samples:
            if sample.name == "caravan_device_memory_bytes":
                found[sample.labels["state"]] += sample.value
            elif sample.name == "caravan_model_unloads_total":
                found[sample.labels["reason"]] += sample.value
            elif sample.name == "caravan_model_loads_total" and sample.labels["outcome"] == "ok":
                found["loads"] += sample.value
    return dict(found)


async def needs(cache: Path, scratch: Path) -> dict[str, int]:
    """The bytes of each model when it is alone."""
    found: dict[str, int] = {}
    with serving(cache, scratch) as url:
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            for name in ("a", "b", "e"):
                before = (await gauges(client)).get("promised", 0.0)
                assert not (wrong := await ask(client, name)), wrong
                found[name] = int((await gauges(client))["promised"] - before)
    return found


async def mixed(url: str, requests: int, clients: int) -> dict[str, Any]:
    """The requests, from so many clients at once, and what was seen meanwhile."""
    order = random.Random(7)
    todo = [order.choice("aabbe") for _ in range(requests)]
    errors: list[str] = []
    seconds: list[float] = []
    promised: list[float] = []
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def work() -> None:
            while todo:
                began = time.monotonic()
                if wrong := await ask(client, todo.pop()):
                    errors.append(wrong)
                seconds.append(time.monotonic() - began)

        async def look() -> None:
            while True:
                promised.append((await gauges(client)).get("promised", 0.0))
                await asyncio.sleep(_LOOK_S)

        looking = asyncio.create_task(look())
        began = time.monotonic()
        await asyncio.gather(*(work() for _ in range(clients)))
        took = time.monotonic() - began
        looking.cancel()
        told = await gauges(client)
    return {
        "requests": len(seconds),
        "errors": errors,
        "seconds": took,
        "median": statistics.median(seconds),
        "longest": max(seconds),
        "promised": max(promised),
        "loads": int(told["loads"]),
        "evicted": int(told.get("evicted", 0)),
    }


def report(known: dict[str, int], budget: int, clients: int, seen: dict[str, Any]) -> str:
    sizes = ", ".join(f"{name} {gib(size)}" for name, size in known.items())
    return (
        f"{machine_lines()}\n\nNeeds: {sizes}; budget {gib(budget)}. {seen['requests']} requests from "
        f"{clients} clients in {seen['seconds']:.0f} s: {len(seen['errors'])} errors, at most "
        f"{gib(int(seen['promised']))} promised, {seen['loads']} loads, {seen['evicted']} unloads for "
        f"another. An answer took {seen['median']:.2f} s by the median, {seen['longest']:.0f} s at most."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "caravan", help="models")
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        known = asyncio.run(needs(arguments.cache, scratch))
        budget = int(sum(sorted(known.values())[1:]) * _MORE)
        print(json.dumps({"needs": known, "budget": budget}), flush=True)
        with serving(arguments.cache, scratch, budget) as url:
            seen = asyncio.run(mixed(url, arguments.requests, arguments.clients))
    print(json.dumps(seen), flush=True)
    text = report(known, budget, arguments.clients, seen)
    write_section(arguments.markdown, text, MARK)
    if seen["errors"] or seen["promised"] > budget:
        sys.exit("errors, or over the budget")


if __name__ == "__main__":
    main()
