"""Drives the real server for a long time, kills an engine twice and says what was lost and what has grown.

Run it with `python -m chaos.soak --duration 30m`. It ends with status 1 if an answer was lost, if one failed
without a cause, or if memory, descriptors, threads, processes or tasks have grown by more than 5%.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import goduration

from chaos.answers import Outcome
from chaos.harm import Harm, kill
from chaos.requests import Mix
from chaos.site import Site, eventually, serving_site
from chaos.tally import Tally, Window, shown
from chaos.traffic import Traffic
from chaos.vitals import Vitals, growth, look
from harness.report import machine_lines, write_section

MARK = "<!-- chaos:soak -->"
MOST_GROWTH = 0.05
NOTHING = "Nothing was lost, nothing failed without a cause, nothing has grown."
SAMPLE_S = 60.0
_SETTLED_S = 30.0
_REST_S = 10.0


@dataclass(frozen=True, slots=True)
class Soak:
    """`windows` begin with those of the warm-up; `before` is after it."""

    tally: Tally
    windows: list[Window]
    started: Vitals
    before: Vitals
    after: Vitals


def seconds(text: str) -> float:
    """A Go duration, as the server's own settings take."""
    return goduration.Duration.parse(text).nanoseconds / 1e9


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.soak", description=__doc__)
    parser.add_argument("--duration", type=seconds, default=seconds("30m"), help="such as 90s or 30m")
    parser.add_argument("--warm-up", type=seconds, default=seconds("2m"), help="traffic before it")
    parser.add_argument("--clients", type=int, default=4, help="requests at a time")
    parser.add_argument("--pause", type=float, default=0.2, help="mean seconds between a client's requests")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the order of requests")
    parser.add_argument("--markdown", type=Path, help="a file to write the result into, as BENCHMARKS.md")
    return parser.parse_args()


async def rest(site: Site) -> None:
    """Until the engines have nothing to do and closed connections are forgotten."""

    async def idle() -> bool:
        return not await site.busy()

    await eventually(idle, _SETTLED_S, "engines without work")
    await asyncio.sleep(_REST_S)


async def sampled(site: Site, traffic: Traffic, until: float) -> None:
    """A line a minute until then."""
    while (left_s := until - time.monotonic()) > 0:
        await asyncio.sleep(min(SAMPLE_S, left_s))
        vitals, tally = await look(site), traffic.tally
        print(
            f"{time.strftime('%H:%M:%S')} {tally.total(Outcome.WHOLE):,} whole, "
            f"{tally.total(Outcome.FAILED):,} failed, {tally.total(Outcome.LOST):,} lost; "
            f"{vitals.total_mib:,.0f} MiB, server {vitals.memory_mib['server']:,.0f} MiB, "
            f"{vitals.descriptors} descriptors, {vitals.threads} threads, {vitals.tasks} tasks",
            flush=True,
        )


async def soak(site: Site, plan: argparse.Namespace) -> Soak:
    mix = Mix(await site.vectors(), random.Random(plan.seed))
    traffic = Traffic(site, mix, clients=plan.clients, pause_s=plan.pause, seed=plan.seed)
    await rest(site)
    started = await look(site)
    # A second load of each engine leaves the allocator with more than the first; a third does not.
    windows = [
        await under(traffic, plan.warm_up / 2, harm, site) for harm in (kill("Engine"), kill("Engine"))
    ]
    await rest(site)
    before, began = await look(site), time.monotonic()
    print(f"at rest: {before.rows()}", flush=True)
    async with traffic.running():
        for share, harm in ((1 / 3, kill("Engine")), (2 / 3, kill("Worker"))):
            await sampled(site, traffic, began + share * plan.duration)
            windows.append(await harm(site))
            print(windows[-1].harm, flush=True)
        await sampled(site, traffic, began + plan.duration)
    await rest(site)
    return Soak(traffic.tally, windows, started, before, await look(site))


async def under(traffic: Traffic, seconds: float, harm: Harm, site: Site) -> Window:
    """A harm after that much traffic, which goes on until all is well again."""
    async with traffic.running():
        await asyncio.sleep(seconds)
        return await harm(site)


def compared(found: Soak) -> str:
    first, then, now = found.started.rows(), found.before.rows(), found.after.rows()
    grown = growth(found.before, found.after)
    lines = ["| at rest | loaded | before | after | growth |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {first[name]:,.0f} | {then[name]:,.0f} | {now[name]:,.0f} | {grown[name]:+.1%} |"
        for name in now
    ]
    return "\n".join(lines)


def grown_too_much(before: Vitals, after: Vitals) -> list[str]:
    """Parts may shift memory among themselves; the server's own and the sum may not grow."""
    watched = [name for name in after.rows() if not name.startswith("memory")]
    watched += ["memory of the server, MiB", "memory of all, MiB"]
    grown = growth(before, after)
    return [f"{name} has grown by {grown[name]:.1%}" for name in watched if grown[name] > MOST_GROWTH]


def report(plan: argparse.Namespace, found: Soak) -> tuple[str, Sequence[str]]:
    problems = [*found.tally.problems(found.windows), *grown_too_much(found.before, found.after)]
    parts = [
        machine_lines(),
        f"{plan.duration / 60:.3g} minutes, {plan.clients} clients, seed {plan.seed}:",
        "\n".join(f"- {window.harm}" for window in found.windows[2:]),
        found.tally.table(),
        f"*Before* is after {plan.warm_up:g} s of traffic in which each engine was killed and loaded again:",
        compared(found),
        shown(problems) if problems else NOTHING,
    ]
    return "\n\n".join(parts), problems


async def run(plan: argparse.Namespace) -> Sequence[str]:
    async with serving_site() as site:
        text, problems = report(plan, await soak(site, plan))
    print(text)
    if plan.markdown:
        write_section(plan.markdown, text, MARK)
    return problems


if __name__ == "__main__":
    sys.exit(1 if asyncio.run(run(options())) else 0)
