"""The devices as a driver told of them last: read in a thread of its own, kept fresh."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from threading import Condition, Thread

from app.core.device import Device

_EVERY_S = 1.0
_LIMIT_S = 5.0
_log = logging.getLogger(__name__)


class Readings:
    """A driver may never answer again once a device has failed: then what it told last stays what is known.

    It is asked every `every_s`, and whenever somebody wants to know at once; the first time here, for at most
    `limit_s`. `last` is empty until it has answered.
    """

    def __init__(
        self, read: Callable[[], Sequence[Device]], *, every_s: float = _EVERY_S, limit_s: float = _LIMIT_S
    ) -> None:
        self._read, self._every_s, self._limit_s = read, every_s, limit_s
        self._changed = Condition()
        self._asked = self._answered = 0
        self._failed = False
        self._at = -math.inf
        self.last: Sequence[Device] = ()
        Thread(target=self._run, name="device readings", daemon=True).start()
        with self._changed:
            self._asked = 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._answered or self._failed, limit_s)

    @property
    def is_current(self) -> bool:
        """Whether what was read last is no older than it is to be."""
        return time.monotonic() - self._at <= self._limit_s

    async def fresh(self) -> bool:
        """Have the driver asked anew; False where it fails or does not answer within the limit."""
        loop = asyncio.get_running_loop()
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
        end = loop.time() + self._limit_s
        pause_s = 0.001
        while self._answered < mine and loop.time() < end:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.05)
        return self._answered >= mine and not self._failed

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._answered, self._every_s)
                asked = self._asked
            self._read_once()
            with self._changed:
                self._answered = asked
                self._changed.notify_all()

    def _read_once(self) -> None:
        try:
            at = time.monotonic()
            self.last = tuple(self._read())
            self._at, self._failed = at, False
        except Exception as error:  # a driver's library has errors of its own for each thing that is amiss
            if not self._failed:  # once, and not at each reading
                _log.error("the memory of the devices cannot be read", extra={"error": repr(error)})
            self._failed = True
