"""The tokens of a key in the minute that runs: used ones, and those set aside for requests under way.

A window of a minute begins with the first token and has a name, so that what a request gives back is never
credited to a later window. What is left set aside, by a process that died, goes with its window.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from limits.aio.storage import RedisStorage, Storage

MINUTE_S = 60.0


class Grant(NamedTuple):
    """What was set aside, 0 where that would have been too little; the window, and how long it lasts."""

    tokens: int
    window: str
    left_s: float


class Ledger(Protocol):
    async def used(self, key_id: str) -> tuple[int, float]:
        """The tokens used in this window, and how long it lasts."""
        ...

    async def reserve(self, key_id: str, limit: int, least: int, most: int) -> Grant:
        """Set aside as many tokens as the limit leaves, at most `most`; none if that is under `least`."""
        ...

    async def settle(self, key_id: str, grant: Grant, used: int) -> None:
        """A request has ended: what was set aside for it, and is not used, is free again."""
        ...


@dataclass(slots=True)
class _Window:
    name: str
    ends: float
    used: int = 0
    held: int = 0


class MemoryLedger:
    """Of this process alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    async def used(self, key_id: str) -> tuple[int, float]:
        window = self._current(key_id)
        return (window.used, window.ends - self._clock()) if window else (0, 0.0)

    async def reserve(self, key_id: str, limit: int, least: int, most: int) -> Grant:
        window = self._current(key_id)
        tokens = min(most, limit - window.used - window.held if window else limit)
        if tokens < least:
            return Grant(0, "", window.ends - self._clock() if window else 0.0)
        window = window or self._begin(key_id)
        window.held += tokens
        return Grant(tokens, window.name, window.ends - self._clock())

    async def settle(self, key_id: str, grant: Grant, used: int) -> None:
        window = self._current(key_id)
        if window is not None and window.name == grant.window:
            window.held -= grant.tokens
            window.used += used
        elif used > grant.tokens:
            (window or self._begin(key_id)).used += used - grant.tokens

    def _current(self, key_id: str) -> _Window | None:
        window = self._windows.get(key_id)
        if window is not None and window.ends <= self._clock():
            del self._windows[key_id]
            return None
        return window

    def _begin(self, key_id: str) -> _Window:
        window = self._windows[key_id] = _Window(_new_name(), self._clock() + MINUTE_S)
        return window


_USED = """
return {redis.call('HGET', KEYS[1], 'used') or 0, redis.call('PTTL', KEYS[1])}
"""

_BEGIN = """
local function begin(name)
    redis.call('HSET', KEYS[1], 'window', name)
    redis.call('PEXPIRE', KEYS[1], 60000)
    return name
end
"""

_RESERVE = f"""
{_BEGIN}
local window = redis.call('HGET', KEYS[1], 'window')
local used = tonumber(redis.call('HGET', KEYS[1], 'used') or 0)
local held = tonumber(redis.call('HGET', KEYS[1], 'held') or 0)
local tokens = math.min(tonumber(ARGV[3]), tonumber(ARGV[1]) - used - held)
if tokens < tonumber(ARGV[2]) then
    return {{0, '', redis.call('PTTL', KEYS[1])}}
end
window = window or begin(ARGV[4])
redis.call('HINCRBY', KEYS[1], 'held', tokens)
return {{tokens, window, redis.call('PTTL', KEYS[1])}}
"""

_SETTLE = f"""
{_BEGIN}
local window = redis.call('HGET', KEYS[1], 'window')
local held, used = tonumber(ARGV[2]), tonumber(ARGV[3])
if window and window == ARGV[1] then
    redis.call('HINCRBY', KEYS[1], 'held', -held)
    redis.call('HINCRBY', KEYS[1], 'used', used)
elseif used > held then
    window = window or begin(ARGV[4])
    redis.call('HINCRBY', KEYS[1], 'used', used - held)
end
"""


class RedisLedger:
    """Of all replicas; each step is one script, which Redis runs as a whole."""

    def __init__(self, storage: RedisStorage) -> None:
        bridge: Any = storage.bridge
        connection = bridge.get_connection()
        self._name: Callable[[str], str] = bridge.prefixed_key
        self._used = connection.register_script(_USED)
        self._reserve = connection.register_script(_RESERVE)
        self._settle = connection.register_script(_SETTLE)

    async def used(self, key_id: str) -> tuple[int, float]:
        used, left_ms = await self._used([self._key(key_id)])
        return int(used), left_ms / 1000

    async def reserve(self, key_id: str, limit: int, least: int, most: int) -> Grant:
        tokens, window, left_ms = await self._reserve([self._key(key_id)], [limit, least, most, _new_name()])
        return Grant(int(tokens), window.decode(), left_ms / 1000)

    async def settle(self, key_id: str, grant: Grant, used: int) -> None:
        await self._settle([self._key(key_id)], [grant.window, grant.tokens, used, _new_name()])

    def _key(self, key_id: str) -> str:
        return self._name(f"tokens/{key_id}")


def ledger_of(storage: Storage, clock: Callable[[], float] = time.monotonic) -> Ledger:
    """The ledger that is kept where the other counts are."""
    return RedisLedger(storage) if isinstance(storage, RedisStorage) else MemoryLedger(clock)


def _new_name() -> str:
    return secrets.token_hex(8)
