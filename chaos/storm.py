"""A thousand clients that leave at random moments, and what the server has left of them afterwards.

Run it with `python -m chaos.storm --count 1000`. Two seconds after the last has left, the engines must have
nothing to do, by their own counts; then no task, descriptor, thread or process may be more than before.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chaos.client import PAUSES_S, ask, leave
from chaos.requests import Judge, Request, greeting, leavers
from chaos.site import LOAD_S, Site, Unsettled, eventually, serving_site
from chaos.tally import shown
from chaos.traffic import DEADLINE_S
from chaos.vitals import Vitals, look
from harness.report import machine_lines, write_section

MARK = "<!-- chaos:storm -->"
FREE_S = 2.0
CALM_S = 20.0
WHILE_LOADING = 0.1
"""The share of clients that ask while their model is loaded, and leave before it is."""
AT_ONCE = 16
_REST_S = 1.0
"""In which the server sees the last of the connections end."""
_LOADING_PAUSES_S = (0.0, 0.05, 0.5, 1.0, 2.0)


@dataclass(slots=True)
class Storm:
    """What came of it. `free_s` is how long the engines took to be free after the last client left."""

    left: Counter[str] = field(default_factory=Counter[str])
    free_s: float = 0.0
    problems: list[str] = field(default_factory=list[str])
    before: Vitals | None = None
    after: Vitals | None = None

    def table(self) -> str:
        rows = [f"| {kind} | {count:,} |" for kind, count in sorted(self.left.items())]
        return "\n".join(["| clients that left | count |", "| --- | ---: |", *rows])


async def storm(site: Site, count: int, dice: random.Random) -> Storm:
    """Have `count` clients leave and compare the server with what it was before."""
    found = Storm()
    loading = round(count * WHILE_LOADING)
    kinds = list(leavers())
    # What grows once with the first clients (threads, buffers, the log) is not a leak.
    await _leave(site, [dice.choice(kinds) for _ in range(2 * AT_ONCE)], dice, Storm())
    found.free_s = await calm(site, found.problems)
    await asyncio.sleep(_REST_S)
    found.before = await look(site)
    await _leave_while_loading(site, [dice.choice(kinds) for _ in range(loading)], dice, found)
    await site.load()
    await _leave(site, [dice.choice(kinds) for _ in range(count - loading)], dice, found)
    found.free_s = await calm(site, found.problems)
    answer = await ask(site.client, greeting(), DEADLINE_S)
    if wrong := Judge().verdict(greeting(), answer).reason:
        found.problems.append(f"no good answer afterwards: {wrong}")
    found.after = await settled(site, found.before)
    found.problems += leaks(found.before, found.after)
    return found


async def _leave(
    site: Site,
    wanted: Sequence[Request],
    dice: random.Random,
    found: Storm,
    pauses: Sequence[float] = PAUSES_S,
) -> None:
    waiting = iter(wanted)

    async def client() -> None:
        for request in waiting:
            answer = await leave(site.url, request, dice, DEADLINE_S, pauses)
            found.left[request.kind] += answer.left
            if answer.fault:
                found.problems.append(f"{request.kind}: {answer.fault}")

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(client())


async def _leave_while_loading(
    site: Site, wanted: Sequence[Request], dice: random.Random, found: Storm
) -> None:
    """Unload both models, then ask for them and leave at moments of their loads."""
    for path, model in (("/api/generate", "tool"), ("/api/embed", "emb")):
        await site.client.post(path, json={"model": model, "keep_alive": 0}, timeout=LOAD_S)
    await eventually(lambda: not site.engines(), LOAD_S, "an end of all engines")
    early = Storm()
    await _leave(site, wanted, dice, early, _LOADING_PAUSES_S)
    found.left["while the model loads"] += early.left.total()
    found.problems += early.problems


async def calm(site: Site, problems: list[str]) -> float:
    """Wait until the engines are free; the seconds it took, which are a problem when they are many."""

    async def free() -> bool:
        return not await site.busy()

    try:
        took_s = await eventually(free, CALM_S, "engines without work")
    except Unsettled as error:
        problems.append(str(error))
        return CALM_S
    if took_s > FREE_S:
        problems.append(f"the engines were free only after {took_s:.2f} s")
    return took_s


async def settled(site: Site, before: Vitals) -> Vitals:
    """The vitals once nothing is more than before, or as they are if that never comes."""
    after = await look(site)

    async def no_more() -> bool:
        nonlocal after
        after = await look(site)
        return not leaks(before, after)

    with suppress(Unsettled):
        await eventually(no_more, CALM_S, "as little as before")
    return after


def leaks(before: Vitals, after: Vitals) -> list[str]:
    counts = ("descriptors", "threads", "processes", "tasks")
    pairs = {name: (getattr(before, name), getattr(after, name)) for name in counts}
    return [f"{name}: {then} before, {now} after" for name, (then, now) in pairs.items() if now > then]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.storm", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="clients that leave")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what they do")
    parser.add_argument("--markdown", type=Path, help="a file to write the result into, as BENCHMARKS.md")
    return parser.parse_args()


def report(found: Storm) -> str:
    assert found.before is not None
    assert found.after is not None
    then, now = found.before.rows(), found.after.rows()
    kept = ["| at rest | before | after |", "| --- | ---: | ---: |"]
    kept += [f"| {name} | {then.get(name, 0):,.0f} | {value:,.0f} |" for name, value in now.items()]
    return "\n\n".join(
        (
            f"{found.left.total():,} clients that leave, {AT_ONCE} at a time:",
            found.table(),
            f"The engines had nothing to do {found.free_s:.2f} s after the last client had left.",
            "\n".join(kept),
            shown(found.problems) if found.problems else "Nothing was left of them.",
        )
    )


async def run(plan: argparse.Namespace) -> Sequence[str]:
    async with serving_site() as site:
        found = await storm(site, plan.count, random.Random(plan.seed))
    text = f"{machine_lines()}\n- seed: {plan.seed}\n\n{report(found)}"
    print(text)
    if plan.markdown and not found.problems:
        write_section(plan.markdown, text, MARK)
    return found.problems


if __name__ == "__main__":
    sys.exit(1 if asyncio.run(run(options())) else 0)
