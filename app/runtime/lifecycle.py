"""How the server ends: it drains, then what is left is ended, then the process exits.

A signal or a crash loop begins the drain. The listener stays open meanwhile, so that a load balancer sees
that the server is not ready, and clients are told to go elsewhere instead of being refused a connection.
"""

import logging
import time
from collections.abc import Awaitable, Callable

_log = logging.getLogger("caravan")


class GaveUp(Exception):
    """The server ended because it could not do its work any more."""


class Lifecycle:
    """`failure` is why the process is to end with a status other than 0. A signal may call the methods."""

    def __init__(
        self,
        *,
        grace_s: float = 30.0,
        delay_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure = ""
        self._grace_s = grace_s
        self._delay_s = min(delay_s, grace_s)
        self._clock = clock
        self._since: float | None = None
        self._hurried = False
        self._enders: list[Callable[[], Awaitable[None]]] = []

    @property
    def draining(self) -> bool:
        """Whether new work is to be refused."""
        return self._since is not None

    @property
    def hurried(self) -> bool:
        """Whether nothing under way is waited for."""
        return self._hurried

    def ends_with(self, ender: Callable[[], Awaitable[None]]) -> None:
        """Have `ender` called to end the work that outlives the grace period."""
        self._enders.append(ender)

    def stop(self) -> None:
        """Take no more work; called again, wait no longer for what is under way."""
        if self._since is not None:
            _log.info("stopping now: requests under way are ended")
            self._hurried = True
            return
        self._since = self._clock()
        _log.info("stopping: no new requests, those under way may take up to %.0f s", self._grace_s)

    def fail(self, why: str) -> None:
        """End as `stop` does, but as a failure: whoever runs the server is to start it anew."""
        _log.error("%s", why)
        self.failure = self.failure or why
        if self._since is None:
            self.stop()

    def over(self, busy: int) -> bool:
        """Whether the drain has come to its end, with `busy` requests still under way."""
        if self._since is None:
            return False
        waited_s = self._clock() - self._since
        return self._hurried or waited_s >= (self._grace_s if busy else self._delay_s)

    async def end(self) -> None:
        """End what is under way: it fails visibly."""
        for ender in self._enders:
            await ender()
