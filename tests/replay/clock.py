"""The loop that a history runs on: virtual time, and a look at every turn."""

import asyncio
import math
import selectors
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import SimpleNamespace

import limits.aio.storage.memory
import limits.aio.strategies

import app.access.limiter
from tests.unit.virtual_time import VirtualSelector

_CLOCKS = (limits.aio.storage.memory, limits.aio.strategies, app.access.limiter)
"""Modules that ask `time` for the time of day."""

EPOCH_S = 1_700_000_000.0


class ReplaySelector(VirtualSelector):
    """Calls `on_turn` before each turn of the loop, and `on_rest` when only time can pass."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.on_turn: Callable[[], None] = lambda: None
        self.on_rest: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        self.on_turn()
        if timeout is None or timeout > 0:
            self.on_rest()
            if timeout is None:
                raise RuntimeError("every task waits and no timer is set")
            self.now = math.nextafter(self.now + timeout, math.inf)
        return []


class ReplayLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = ReplaySelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


@contextmanager
def virtual_clocks(loop: ReplayLoop) -> Generator[None, None, None]:
    """Have the libraries that ask for the time of day ask the loop."""
    clock = SimpleNamespace(time=lambda: EPOCH_S + loop.time(), monotonic=loop.time)
    kept = [vars(module)["time"] for module in _CLOCKS]
    for module in _CLOCKS:
        vars(module)["time"] = clock
    try:
        yield
    finally:
        for module, own in zip(_CLOCKS, kept, strict=True):
            vars(module)["time"] = own


async def turns(count: int) -> None:
    """Let so many turns of the loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)
