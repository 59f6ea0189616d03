"""Ten thousand generated requests over every route of a real server: each is answered, none with a 5xx.

Run it with `python -m chaos.fuzz --count 10000`; `--grow` does something else (`chaos/grow.py`). Hypothesis
draws from the tests' strategies for the tables of fields of all APIs, and for heads of any kind.
"""

import argparse
import asyncio
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from app.api import ops
from app.api.anthropic import routes as anthropic
from app.api.ollama import models, routes
from app.api.openai import models as openai_models
from app.api.openai import routes as openai
from app.api.openai.responses import routes as responses
from chaos import grow
from chaos.answers import NDJSON, Answer, Broken, document, lines
from chaos.apis import EVENTS, ending, is_refusal
from chaos.client import ask
from chaos.requests import Judge, Request, greeting
from chaos.site import Site, serving_site
from chaos.storm import calm, leaks, settled
from chaos.tally import shown
from chaos.traffic import DEADLINE_S
from chaos.vitals import look
from harness.report import machine_lines, write_section
from harness.requests.api_bodies import API_FIELDS
from harness.requests.bodies import FIELDS
from harness.requests.heads import Sent, garbage, improper, odd, posted

MARK = "<!-- chaos:fuzz -->"
BATCH = 10
_ANSWER_S = 30.0
_BODY_S = "1s"
"""How long the server waits for the rest of a body that never comes."""
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_MODELS: st.SearchStrategy[Any] = st.sampled_from(["tool", "tool", "TOOL:latest", "emb", "nosuch", ""])
_KEEP_ALIVE: st.SearchStrategy[Any] = st.sampled_from([None, -1, 300, "5m", "abc"])


def every_path() -> list[str]:
    routers = (
        *(routes.router, models.router, ops.router),
        *(openai.router, openai_models.router, responses.router, anthropic.router),
    )
    return [route.path for router in routers for route in router.routes if isinstance(route, APIRoute)]


def any_request() -> st.SearchStrategy[Sent]:
    """Mostly requests that are wrong in their body alone, since others do not get far."""
    bodies = posted([*FIELDS, *API_FIELDS], _MODELS, _KEEP_ALIVE)
    heads, wild = odd(every_path()), st.one_of(improper(every_path()), garbage())
    # `one_of` counts a strategy once, however often it is given.
    return st.integers(0, 9).flatmap(lambda drawn: bodies if drawn < 6 else heads if drawn < 9 else wild)


def complaint(answer: Answer) -> str:
    """What is wrong with the answer to a request of proper form; empty if nothing is."""
    if answer.fault:
        return answer.fault
    try:
        if answer.status != 200:
            return "" if is_refusal(answer) else f"{answer.status} {answer.body[:200]!r}"
        if answer.content_type.startswith(EVENTS):
            return ending(answer)
        last = lines(answer)[-1] if answer.content_type == NDJSON else document(answer) | {"done": True}
        return "" if last.get("done") is True else f"the stream ends with {last}"
    except Broken as error:
        return str(error)


async def exchange(url: str, data: bytes) -> str:
    """Send bytes of no proper form. What is wrong with what comes back, which may be nothing at all."""
    place = urlsplit(url)
    received = b""
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            try:
                writer.write(data)
                if b"\r\n\r\n" not in data and writer.can_write_eof():
                    # A head that never ends is not answered; it must be forgotten when its client goes.
                    writer.write_eof()
                received = await reader.read()
            finally:
                writer.close()
    except TimeoutError:
        return f"neither an answer nor an end within {_ANSWER_S:g} s"
    except OSError:
        return ""  # a reset is an end
    bad = [status for status in _STATUS.findall(received) if status >= b"500"]
    return f"a status of {bad[0].decode()}: {received[:300]!r}" if bad else ""


@dataclass(slots=True)
class Fuzz:
    """Sends batches and gathers what was wrong."""

    site: Site
    judge: Judge = field(default_factory=Judge)
    sent: Counter[str] = field(default_factory=Counter[str])
    statuses: Counter[str] = field(default_factory=Counter[str])
    problems: list[str] = field(default_factory=list[str])

    async def batch(self, wanted: Iterable[Sent]) -> None:
        async with asyncio.TaskGroup() as group:
            for each in wanted:
                group.create_task(self._one(each))

    async def _one(self, sent: Sent) -> None:
        if sent.proper:
            content = sent.data.partition(b"\r\n\r\n")[2]
            answer = await ask(self.site.client, Request("fuzz", sent.path, content), _ANSWER_S)
            self.statuses[str(answer.status)] += 1
            wrong = complaint(answer)
        else:
            wrong = await exchange(self.site.url, sent.data)
        self.sent[sent.path if sent.proper else "heads of any kind"] += 1
        if wrong:
            self._note(f"{sent.data[:2000]!r}: {wrong}")

    async def check_greeting(self) -> None:
        """A good request is served as ever."""
        answer = await ask(self.site.client, greeting(), DEADLINE_S)
        if wrong := self.judge.verdict(greeting(), answer).reason:
            self._note(f"no good answer after {self.sent.total():,} requests: {wrong}")

    def _note(self, problem: str) -> None:
        self.problems.append(problem)
        print(problem, flush=True)


def generate(fuzz: Fuzz, plan: argparse.Namespace, loop: asyncio.AbstractEventLoop) -> None:
    """Draw requests in a thread, since hypothesis knows no event loop, and have `loop` send them."""

    @seed(plan.seed)
    @settings(
        max_examples=-(-plan.count // BATCH),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
    @given(st.lists(any_request(), min_size=BATCH, max_size=BATCH))
    def send(wanted: list[Sent]) -> None:
        asyncio.run_coroutine_threadsafe(fuzz.batch(wanted), loop).result()
        if fuzz.sent.total() % 1000 == 0:
            asyncio.run_coroutine_threadsafe(fuzz.check_greeting(), loop).result()
            print(f"{fuzz.sent.total():,} sent, {len(fuzz.problems)} problems", flush=True)

    send()


async def run(plan: argparse.Namespace) -> Sequence[str]:
    async with serving_site(CARAVAN_BODY_TIMEOUT=_BODY_S) as site:
        fuzz = Fuzz(site)
        await fuzz.check_greeting()
        await fuzz.batch([Sent(b"GET / HTTP/1.1\r\n\r\n", "/", False)] * BATCH)
        before, began = await look(site), time.monotonic()
        await asyncio.to_thread(generate, fuzz, plan, asyncio.get_running_loop())
        took_s = time.monotonic() - began
        await fuzz.check_greeting()
        await calm(site, fuzz.problems)
        fuzz.problems += leaks(before, await settled(site, before))
    text = report(fuzz, plan, took_s)
    print(text)
    if plan.markdown and not fuzz.problems:
        write_section(plan.markdown, text, MARK)
    return fuzz.problems


def report(fuzz: Fuzz, plan: argparse.Namespace, took_s: float) -> str:
    rows = [f"| `{path}` | {count:,} |" for path, count in sorted(fuzz.sent.items())]
    statuses = ", ".join(f"{count:,} times {status}" for status, count in sorted(fuzz.statuses.items()))
    return "\n\n".join(
        (
            machine_lines(),
            f"{fuzz.sent.total():,} requests in {took_s:.0f} s, {BATCH} at a time, seed {plan.seed}:",
            "\n".join(["| sent to | count |", "| --- | ---: |", *rows]),
            f"Bad bodies were answered {statuses}.",
            shown(fuzz.problems) if fuzz.problems else "No 5xx, no hang, nothing left behind.",
        )
    )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="requests")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what they are")
    parser.add_argument("--grow", action="store_true", help="double each field until it is refused instead")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="ROW",
        help="with --grow: a row of the table of limits that is set to unlimited, or a fault: "
        + ", ".join(grow.FAULTS),
    )
    parser.add_argument("--markdown", type=Path, help="a file to write the result into, as BENCHMARKS.md")
    return parser.parse_args()


if __name__ == "__main__":
    asked = options()
    sys.exit(1 if (grow.run(asked.without) if asked.grow else asyncio.run(run(asked))) else 0)
