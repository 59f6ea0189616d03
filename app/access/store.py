"""Where the counts of the limits are kept: in this process, or in a Redis that many replicas share.

A Redis that is gone or hangs must not hold requests up: it has a moment to answer, and after it has failed it
is left alone for a while, but for one request that looks whether it is back.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from limits.aio.storage import MemoryStorage, RedisStorage, Storage

ANSWER_S = 0.25
_RETRY_S = 5.0
_PREFIX = "caravan"
_log = logging.getLogger("caravan")
_T = TypeVar("_T")


class StoreGone(Exception):
    """The store did not answer."""


class Store:
    """A storage of the limiter library that may be gone; `on_failure` hears of each unanswered question."""

    def __init__(
        self,
        storage: Storage,
        *,
        answer_s: float = ANSWER_S,
        retry_s: float = _RETRY_S,
        on_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.storage = storage
        known = storage.base_exceptions
        self._may_wait = not isinstance(storage, MemoryStorage)
        self._errors = (OSError, TimeoutError, *(known if isinstance(known, tuple) else (known,)))
        self._answer_s = answer_s
        self._retry_s = retry_s
        self._on_failure = on_failure
        self._clock = clock
        self._retry_at: float | None = None

    async def ask(self, question: Callable[[], Awaitable[_T]]) -> _T:
        """The answer, or `StoreGone`: at once while the store is known to be gone."""
        if not self._may_wait:
            return await question()
        gone, now = self._retry_at is not None, self._clock()
        if self._retry_at is not None:
            if now < self._retry_at:
                self._on_failure()
                raise StoreGone
            self._retry_at = now + self._retry_s  # The others do not wait for this one to find out.
        try:
            async with asyncio.timeout(self._answer_s):
                answer = await question()
        except self._errors as error:
            self._failed(error, known=gone)
            raise StoreGone from error
        if self._retry_at is not None:
            self._retry_at = None
            _log.warning("the limits store is available again")
        return answer

    async def close(self) -> None:
        if isinstance(self.storage, RedisStorage):
            await self.storage.bridge.get_connection().aclose()  # type: ignore[attr-defined]

    def _failed(self, error: Exception, *, known: bool) -> None:
        self._on_failure()
        if not known and self._retry_at is None:
            _log.warning("the limits store is unavailable: %s", str(error) or type(error).__name__)
        self._retry_at = self._clock() + self._retry_s


def open_storage(url: str = "", answer_s: float = ANSWER_S) -> Storage:
    """The Redis at `url`, connected to when it is used; without one, the memory of this process."""
    if not url:
        return MemoryStorage()
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return RedisStorage(
        f"async+{url}",
        implementation="redispy",
        key_prefix=_PREFIX,
        socket_timeout=answer_s,
        socket_connect_timeout=answer_s,
        retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]
    )
