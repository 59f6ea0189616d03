"""What is put off until nobody waits for it.

Requests that were batched together end together, just when others wait for their first token. What is then
only to be told of can wait until those are under way, and comes a few at a time.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

_log = logging.getLogger("caravan")
_FIRST_S = 0.25
_NEXT_S = 0.005
_AT_ONCE = 4


class DeferredQueue:
    """Calls to make a moment from now, in order, on the loop that they are put off on."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FIRST_S, self._some)

    def flush(self) -> None:
        """Make all of them now."""
        while self._calls:
            self._next()

    def _some(self) -> None:
        """More at a time where many wait, so that the row of them does not grow forever."""
        self._timer = None
        for _ in range(min(len(self._calls), _AT_ONCE + len(self._calls) // 8)):
            self._next()
        if self._calls:
            self._timer = asyncio.get_running_loop().call_later(_NEXT_S, self._some)

    def _next(self) -> None:
        """One that fails is no reason to forget the others, or to fail a scrape."""
        call = self._calls.popleft()
        try:
            call()
        except Exception:
            _log.exception("a finished request could not be reported")
