"""The requests of a key in the minute before now, each by its moment: no minute has more than the limit.

What is kept are requests that were let in, so their number is the limit, or what the server can take in a
minute, whichever is less. A request takes as long whatever the limit is: one is added, and those that are a
minute old are dropped once each.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Protocol

from limits.aio.storage import RedisStorage, Storage

MINUTE_S = 60.0


class RequestWindow(Protocol):
    async def enter(self, key_id: str, limit: int) -> float | None:
        """Count one request and let it in; or the seconds until another may enter."""
        ...


class MemoryWindow:
    """Of this process alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entered: defaultdict[str, deque[float]] = defaultdict(deque)

    async def enter(self, key_id: str, limit: int) -> float | None:
        now, entered = self._clock(), self._entered[key_id]
        while entered and entered[0] <= now - MINUTE_S:
            entered.popleft()
        if len(entered) >= limit:
            return entered[-limit] + MINUTE_S - now
        entered.append(now)
        return None


_ENTER = """
local time = redis.call('TIME')
local now, minute = time[1] * 1000000 + time[2], 60000000
local first = redis.call('LINDEX', KEYS[1], 0)
while first and tonumber(first) <= now - minute do
    redis.call('LPOP', KEYS[1])
    first = redis.call('LINDEX', KEYS[1], 0)
end
local limit = tonumber(ARGV[1])
if redis.call('LLEN', KEYS[1]) >= limit then
    return redis.call('LINDEX', KEYS[1], -limit) + minute - now
end
redis.call('RPUSH', KEYS[1], string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], 60000)
return -1
"""


class RedisWindow:
    """Of all replicas, by the clock of Redis; a request is one script, which Redis runs as a whole."""

    def __init__(self, storage: RedisStorage) -> None:
        bridge: Any = storage.bridge
        self._name: Callable[[str], str] = bridge.prefixed_key
        self._enter = bridge.get_connection().register_script(_ENTER)

    async def enter(self, key_id: str, limit: int) -> float | None:
        left_us = int(await self._enter([self._name(f"requests/{key_id}")], [limit]))
        return None if left_us < 0 else left_us / 1e6


def window_of(storage: Storage, clock: Callable[[], float] = time.monotonic) -> RequestWindow:
    """The window that is kept where the other counts are."""
    return RedisWindow(storage) if isinstance(storage, RedisStorage) else MemoryWindow(clock)
