"""Minutes of traffic while the engines are killed, stopped and starved, then a storm of clients that leave.

Run it with `python -m chaos`. It prints what was lost, by kind of request, and ends with status 1 if anything
was, or if a request failed without a cause.
"""

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from chaos import storm
from chaos.harm import Harm, hang, hog, kill, pause, starve_of_memory
from chaos.requests import Mix
from chaos.site import MIB, Site, serving_site
from chaos.tally import Window, shown
from chaos.traffic import Traffic
from harness.report import machine_lines, write_section

MARK = "<!-- chaos:chaos -->"
BETWEEN_S = 5.0
"""Traffic before, between and after harms."""
SMALL_KV_CACHE = 2 * MIB + MIB // 4
"""Little more than one full window of the tiny model: a handful of stories already has to take turns."""
SMALL_S = 30.0
_STOPPED_S = 3.0
_STARVED_S = 20.0
_PATIENCE_S = 90.0


def harms(cores: int) -> list[Harm]:
    """Every kind of harm, each engine's turn for the worst."""
    return [
        kill("Engine", 0),
        kill("Worker", 0),
        kill("Engine", 1),
        kill("Worker", 1),
        pause("Engine", _STOPPED_S),
        pause("Worker", _STOPPED_S),
        hang("Engine", _PATIENCE_S),
        hang("Worker", _PATIENCE_S),
        hog(_STARVED_S, 2 * cores),
        starve_of_memory(_STARVED_S),
    ]


def traffic_of(site: Site, mix: Mix, plan: argparse.Namespace, clients: int) -> Traffic:
    return Traffic(site, mix, clients=clients, pause_s=0.0, seed=plan.seed)


async def harmed(plan: argparse.Namespace) -> tuple[str, list[str]]:
    """All harms, one after another, under traffic."""
    windows: list[Window] = []
    async with serving_site() as site:
        traffic = traffic_of(site, Mix(await site.vectors(), random.Random(plan.seed)), plan, plan.clients)
        async with traffic.running():
            for harm in harms(len(os.sched_getaffinity(0))):
                await asyncio.sleep(BETWEEN_S)
                windows.append(await harm(site))
                print(windows[-1].harm, flush=True)
            await asyncio.sleep(BETWEEN_S)
        problems = traffic.tally.problems(windows)
        await storm.calm(site, problems)
    told = "\n".join(f"- {window.harm}" for window in windows)
    return f"{told}\n\n{traffic.tally.table()}", problems


async def crowded(plan: argparse.Namespace) -> tuple[str, list[str]]:
    """A key-value cache too small for the requests at hand: vLLM puts some off and starts them again."""
    async with serving_site(kv_cache_bytes=SMALL_KV_CACHE) as site:
        mix = Mix(await site.vectors(), random.Random(plan.seed))
        traffic = traffic_of(site, mix, plan, 4 * plan.clients)
        async with traffic.running():
            await asyncio.sleep(SMALL_S)
        preempted = (await site.metrics()).get("vllm:num_preemptions_total", 0)
        problems = traffic.tally.problems([])
        await storm.calm(site, problems)
    if not preempted:
        problems.append("nothing was preempted, so nothing was tried")
    room = f"{SMALL_KV_CACHE / MIB:g} MiB"
    told = f"A cache of {room}, {4 * plan.clients} clients, {preempted:,.0f} preemptions:"
    return f"{told}\n\n{traffic.tally.table()}", problems


async def stormy(plan: argparse.Namespace) -> tuple[str, list[str]]:
    async with serving_site() as site:
        found = await storm.storm(site, plan.storm, random.Random(plan.seed))
    return storm.report(found), found.problems


async def run(plan: argparse.Namespace) -> Sequence[str]:
    parts = [machine_lines(), f"{plan.clients} clients, seed {plan.seed}:"]
    problems: list[str] = []
    for act in (harmed, crowded, stormy):
        text, wrong = await act(plan)
        print(f"{text}\n", flush=True)
        parts.append(text)
        problems += wrong
    parts.append(shown(problems) if problems else "Nothing was lost and nothing failed without a cause.")
    print(parts[-1])
    if plan.markdown and not problems:
        write_section(plan.markdown, "\n\n".join(parts), MARK)
    return problems


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--clients", type=int, default=6, help="requests at a time")
    parser.add_argument("--storm", type=int, default=1000, help="clients that leave, at the end")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of all that is drawn")
    parser.add_argument("--markdown", type=Path, help="a file to write the result into, as BENCHMARKS.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(1 if asyncio.run(run(options())) else 0)
