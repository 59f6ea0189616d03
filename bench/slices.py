"""Servers that are up together and take turns at running, a few seconds each.

The others are stopped by SIGSTOP meanwhile, requests under way and all, and a server's clock stands still
while it is stopped. So what else the machine does hits all alike, and a turn needs no beginning and no end.
"""

import asyncio
import itertools
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import psutil

from bench.asking import BadAnswer, Measured, Side, Workload, answer_of, asking
from bench.servers import cpu_seconds

SLICE_S = 3.0
"""Less than any server takes for a sign that its engine hangs."""
_LOOK_S = 0.02
_SUPPLY = 4096
"""More prompts than any run uses up."""


@dataclass(slots=True)
class Reply:
    """One reply. Times are by the server's own clock; `received` is bytes by slice."""

    begun_s: float
    first_s: float = 0.0
    received: dict[int, int] = field(default_factory=dict[int, int])
    body: bytes = b""


class Taker:
    """A server that takes turns: its processes, its clock and what its slices were like."""

    def __init__(self, side: Side, process: psutil.Process, port: int) -> None:
        self.side, self.port = side, port
        self.replies: dict[int, Reply] = {}
        self.slices: list[tuple[float, float, float]] = []
        """When each began and ended by the clock, and the CPU seconds of the front end in it."""
        self._front = process
        self._family = [process, *process.children(recursive=True)]
        self._ran_s = 0.0
        self._since: float | None = None

    def clock(self) -> float:
        return self._ran_s + (0.0 if self._since is None else time.perf_counter() - self._since)

    def begin(self) -> None:
        """Stop, with a clock that shows nothing, and forget what was."""
        self.halt()
        self._ran_s, self.slices, self.replies = 0.0, [], {}

    def halt(self) -> None:
        if self._since is not None:
            self._ran_s += time.perf_counter() - self._since
            self._since = None
        self._signal(signal.SIGSTOP)

    async def run(self, seconds: float) -> None:
        """One slice."""
        begun, used = self.clock(), cpu_seconds(self._front)
        self._since = time.perf_counter()
        self._signal(signal.SIGCONT)
        await asyncio.sleep(seconds)
        self.halt()
        self.slices.append((begun, self.clock(), cpu_seconds(self._front) - used))

    def release(self) -> None:
        """Run for good."""
        self._signal(signal.SIGCONT)

    async def wait(self, clock_s: float) -> None:
        while self.clock() < clock_s:  # noqa: ASYNC110  # it stands still at times, which no timer does
            await asyncio.sleep(_LOOK_S)

    async def ask(self, number: int, prompt: str, tokens: int) -> None:
        reply = self.replies[number] = Reply(self.clock())
        body = bytearray()
        async with aclosing(asking(self.side, self.port, self.side.body(prompt, tokens))) as pieces:
            async for data, has_text in pieces:
                slice_ = len(self.slices)
                reply.received[slice_] = reply.received.get(slice_, 0) + len(data)
                body += data
                if has_text and not reply.first_s:
                    reply.first_s = self.clock() - reply.begun_s
        reply.body = bytes(body)

    def _signal(self, which: signal.Signals) -> None:
        for each in self._family:
            each.send_signal(which)


async def take_turns(
    takers: Sequence[Taker], load: Workload, clients: int, seconds: float, first_prompt: int
) -> list[tuple[Taker, Measured]]:
    """Have `clients` clients ask each server for `seconds` of its own time, once all of them have begun."""
    all_s = clients * load.apart_s

    async def client(taker: Taker, number: int, supply: Iterator[tuple[int, str]]) -> None:
        await taker.wait(number * load.apart_s)
        while taker.clock() < all_s + seconds:
            await taker.ask(*next(supply), load.tokens)

    try:
        async with asyncio.TaskGroup() as group:
            asked: dict[Taker, list[asyncio.Task[None]]] = {}
            for taker in takers:
                taker.begin()
                supply = enumerate(load.prompts(_SUPPLY, first_prompt), first_prompt)
                asked[taker] = [group.create_task(client(taker, number, supply)) for number in range(clients)]
            for taker in itertools.cycle(takers):
                if not all(task.done() for task in asked[taker]):
                    await taker.run(SLICE_S)
                elif all(task.done() for tasks in asked.values() for task in tasks):
                    break
    finally:
        for taker in takers:
            taker.release()
    return [(taker, measured(taker, all_s, seconds)) for taker in takers]


def measured(taker: Taker, all_s: float, seconds: float) -> Measured:
    """What a server did in the slices that lie between `all_s`, when the last client has begun, and the end.

    A slice lasts a little longer than it should, so the last one may end a little after that.
    """
    within = {
        number: (begun, ended, used)
        for number, (begun, ended, used) in enumerate(taker.slices)
        if begun >= all_s and ended <= all_s + seconds + SLICE_S / 2
    }
    written = dict.fromkeys(within, 0.0)
    found = Measured()
    for number, reply in taker.replies.items():
        prompt_tokens, tokens = taker.side.counts(answer_of(reply.body))
        found.counts[number] = prompt_tokens, tokens
        if not reply.first_s:
            raise BadAnswer(f"{taker.side.name} gave a reply without text")
        share = tokens / sum(reply.received.values())
        for slice_, size in reply.received.items():
            if slice_ in written:
                written[slice_] += size * share
        if all_s <= reply.begun_s <= all_s + seconds:
            found.first_s.append(reply.first_s)
    found.seconds = sum(ended - begun for begun, ended, _ in within.values())
    found.cpu_seconds = sum(used for _, _, used in within.values())
    found.tokens = sum(written.values())
    return found
