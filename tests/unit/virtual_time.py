"""An event loop on which no test ever waits: a timer rings as soon as nothing else can happen."""

import asyncio
import functools
import math
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


class VirtualSelector(selectors.DefaultSelector):
    """Lets the time it is asked to wait pass at once. Waiting for nothing at all is a deadlock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not (ready := super().select(0)):
            if timeout is None:
                raise RuntimeError("every task waits and no timer is set")
            self.now = math.nextafter(self.now + timeout, math.inf)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


async def advance(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def settle() -> None:
    """Let everything happen that needs no more than a moment."""
    await advance(1e-6)


def now() -> float:
    return asyncio.get_running_loop().time()
