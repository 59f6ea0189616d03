"""What a key may still use: requests and tokens by the minute, and requests at once.

Requests are counted in a window that slides. Tokens are known only when a request ends, so one is let in
while any are left and charged afterwards with all it took, which may be more than there were: only a fixed
window keeps such a debt, until it ends. Requests at once are counted by each process for itself.
"""

import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress

from limits import RateLimitItemPerMinute
from limits.aio.strategies import FixedWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from app.access.store import Store, StoreGone
from app.core.call import Call, Caller, Limits
from app.core.errors import ConcurrencyExceeded, LimitsUnknown, RequestRateExceeded, TokenRateExceeded

_NO_LIMITS = Limits()
_NAMESPACE = "limits"
_AT_ONCE_RETRY_S = 1


class Limiter:
    """Counts for all keys. `fail_open` says whether a request passes when the store cannot be asked."""

    def __init__(self, store: Store, *, fail_open: bool = True) -> None:
        self._store = store
        self._fail_open = fail_open
        self._requests = SlidingWindowCounterRateLimiter(store.storage)
        self._tokens = FixedWindowRateLimiter(store.storage)
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def admit(self, call: Call) -> AsyncGenerator[None, None]:
        """Let one request in until it ends, then charge it for its tokens, however it ended.

        Raises:
            RateLimited: for a limit that is used up.
            LimitsUnknown: when the store cannot be asked and that closes the server.
        """
        caller = call.caller
        if caller.limits == _NO_LIMITS:
            yield
            return
        with self._at_once(caller):
            try:
                await self._check(caller)
            except StoreGone as error:
                if not self._fail_open:
                    raise LimitsUnknown from error
            try:
                yield
            finally:
                await self._charge(caller, call.prompt_tokens + call.output_tokens)

    @contextmanager
    def _at_once(self, caller: Caller) -> Generator[None, None, None]:
        limit, key_id = caller.limits.concurrent_requests, caller.key_id
        if limit is not None and self._running[key_id] >= limit:
            text = f"this API key may have {limit} requests at once; wait until one of them ends"
            raise ConcurrencyExceeded(text, _AT_ONCE_RETRY_S)
        self._running[key_id] += 1
        try:
            yield
        finally:
            self._running[key_id] -= 1
            if not self._running[key_id]:
                del self._running[key_id]

    async def _check(self, caller: Caller) -> None:
        """Tokens first: a request that is refused for them is not counted as one."""
        limits = caller.limits
        if limits.tokens_per_minute is not None:
            item = RateLimitItemPerMinute(limits.tokens_per_minute, namespace=_NAMESPACE)
            if not await self._store.ask(lambda: self._tokens.test(item, "tokens", caller.key_id)):
                text = f"this API key has used up its {limits.tokens_per_minute} tokens per minute"
                raise TokenRateExceeded(text, await self._wait_s(self._tokens, item, "tokens", caller))
        if limits.requests_per_minute is not None:
            item = RateLimitItemPerMinute(limits.requests_per_minute, namespace=_NAMESPACE)
            if not await self._store.ask(lambda: self._requests.hit(item, "requests", caller.key_id)):
                text = f"this API key has used up its {limits.requests_per_minute} requests per minute"
                raise RequestRateExceeded(text, await self._wait_s(self._requests, item, "requests", caller))

    async def _wait_s(
        self, limiter: RateLimiter, item: RateLimitItemPerMinute, what: str, caller: Caller
    ) -> int:
        """Whole seconds after which something is left again; it is never too early."""
        stats = await self._store.ask(lambda: limiter.get_window_stats(item, what, caller.key_id))
        return max(0, math.floor(stats.reset_time - time.time())) + 1

    async def _charge(self, caller: Caller, tokens: int) -> None:
        limit = caller.limits.tokens_per_minute
        if limit is None or not tokens:
            return
        item = RateLimitItemPerMinute(limit, namespace=_NAMESPACE)
        with suppress(StoreGone):  # The answer has been given, and the store has counted that it was gone.
            await self._store.ask(lambda: self._tokens.hit(item, "tokens", caller.key_id, cost=tokens))
