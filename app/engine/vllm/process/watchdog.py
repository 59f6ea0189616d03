"""Whether an engine hangs: judged by its outputs, looked at now and then and never counted per token.

A hung engine owes something, an answer or the token of a probe, and gives no output. One that computes on
a long prompt, or compiles what it needs for the first time, looks the same from outside. So the CPU time of
its workers and the work of its GPUs count for it, up to a point: kernels that wait for each other for ever
look like work too.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

_BUSY_FACTOR = 10
"""How many times the limit an engine may go without output while its workers or GPUs compute."""
_IDLE_FACTOR = 5
"""How many times the limit an engine is left alone for without a request."""
_LOOKS = 20
_SHORTEST_LOOK_S = 0.1
_LONGEST_LOOK_S = 5.0
_WORKING_SHARE = 0.1


class Verdict(Enum):
    WELL = auto()
    PROBE = auto()
    HUNG = auto()


@dataclass(frozen=True, slots=True)
class Look:
    """An engine at a moment: outputs so far, whether anything waits for one, its workers' CPU time so far,
    whether its GPUs compute, and whether it is asleep, falls asleep or wakes, which have a limit of their
    own."""

    outputs: int
    owes: bool
    cpu_s: float = 0.0
    computing: bool = False
    asleep: bool = False


class Judge:
    """Knows nothing but looks and the time between them."""

    def __init__(self, limit_s: float, first: Look) -> None:
        self._limit_s = limit_s
        self._last = first
        self._forget()

    def look(self, seen: Look, passed_s: float) -> Verdict:
        last, self._last = self._last, seen
        if seen.outputs != last.outputs or seen.asleep:
            self._forget()
            return Verdict.WELL
        if not seen.owes:
            self._quiet_s += passed_s
            self._silent_s = self._stopped_s = 0.0
            return self._probe_after(_IDLE_FACTOR * self._limit_s, self._quiet_s)
        self._silent_s += passed_s
        if not seen.computing and seen.cpu_s - last.cpu_s < _WORKING_SHARE * passed_s:
            self._stopped_s += passed_s
        if self._stopped_s >= self._limit_s or self._silent_s >= _BUSY_FACTOR * self._limit_s:
            return Verdict.HUNG
        return self._probe_after(self._limit_s / 2, self._stopped_s)

    def _forget(self) -> None:
        self._quiet_s = self._silent_s = self._stopped_s = 0.0
        self._probed = False

    def _probe_after(self, wait_s: float, waited_s: float) -> Verdict:
        """One probe is enough: its answer is an output, after which the waiting begins anew."""
        if self._probed or waited_s < wait_s:
            return Verdict.WELL
        self._probed = True
        return Verdict.PROBE


async def wait_hung(
    limit_s: float,
    see: Callable[[], Look],
    probe: Callable[[], Awaitable[None]],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Return once the engine hangs; never with a limit of `inf`. `probe` asks it for one token."""
    if not math.isfinite(limit_s):
        await asyncio.get_running_loop().create_future()
    every_s = min(max(limit_s / _LOOKS, _SHORTEST_LOOK_S), _LONGEST_LOOK_S)
    judge, then = Judge(limit_s, see()), clock()
    probing: asyncio.Future[None] | None = None
    try:
        while True:
            await asyncio.sleep(every_s)
            now = clock()
            # A machine or a loop that stood still says nothing of the engine.
            verdict = judge.look(see(), min(now - then, 2 * every_s))
            then = now
            if verdict is Verdict.HUNG:
                return
            if verdict is Verdict.PROBE:
                probing = asyncio.ensure_future(probe())
    finally:
        if probing is not None:
            probing.cancel()
