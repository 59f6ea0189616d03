"""What a key may still use: requests and tokens by the minute, and requests at once.

Of requests each has its moment, so that no minute has more than the limit. Tokens are set aside before the
engine begins, as many as the request may take, and counted for what they were when it ends, so that requests
at once stay within the limit too. Requests at once are counted by each process for itself.
"""

import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

from app.access.ledger import Grant, Ledger, ledger_of
from app.access.store import Store, StoreGone
from app.access.window import window_of
from app.core.context import Caller, Limits, RequestContext, Settle
from app.core.errors import (
    ConcurrencyExceeded,
    Forbidden,
    LimitsUnknown,
    RequestRateExceeded,
    TokenRateExceeded,
)

_NO_LIMITS = Limits()
_AT_ONCE_RETRY_S = 1
_WORTHWHILE = 10
"""An answer of no stated length is begun if this part of the limit is left for it, or all it can take."""
_NOTHING = Grant(0, "", 0.0)


class Limiter:
    """Counts for all keys. `fail_open` says whether a request passes when the store cannot be asked."""

    def __init__(
        self, store: Store, *, fail_open: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._fail_open = fail_open
        self._requests = window_of(store.storage, clock)
        self._ledger = ledger_of(store.storage, clock)
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def admit(self, ctx: RequestContext) -> AsyncGenerator[None, None]:
        """Let one request in until it ends, then charge it for its tokens, however it ended.

        `ctx.reserve` sets its tokens aside meanwhile.

        Raises:
            RateLimited: for a limit that is used up.
            LimitsUnknown: when the store cannot be asked and that closes the server.
        """
        caller = ctx.caller
        if caller.limits == _NO_LIMITS:
            yield
            return
        with self._at_once(caller):
            try:
                await self._check(caller)
            except StoreGone as error:
                if not self._fail_open:
                    raise LimitsUnknown from error
            if caller.limits.tokens_per_minute is None:
                yield
                return
            budget = _Budget(self._store, self._ledger, caller, fail_open=self._fail_open)
            ctx.reserve = budget.reserve
            try:
                yield
            finally:
                await budget.end(ctx.work.prompt_tokens + ctx.work.output_tokens)

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
        limits, key_id = caller.limits, caller.key_id
        if limits.tokens_per_minute is not None:
            used, left_s = await self._store.ask(lambda: self._ledger.used(key_id))
            if used >= limits.tokens_per_minute:
                text = f"this API key has used up its {limits.tokens_per_minute} tokens per minute"
                raise TokenRateExceeded(text, _whole_s(left_s))
        if limits.requests_per_minute is not None:
            most = limits.requests_per_minute
            wait_s = await self._store.ask(lambda: self._requests.enter(key_id, most))
            if wait_s is not None:
                text = f"this API key has used up its {most} requests per minute"
                raise RequestRateExceeded(text, _whole_s(wait_s))


class _Budget:
    """The tokens of one request of a key with a limit of them."""

    def __init__(self, store: Store, ledger: Ledger, caller: Caller, *, fail_open: bool) -> None:
        self._store = store
        self._ledger = ledger
        self._key_id = caller.key_id
        self._limit = caller.limits.tokens_per_minute or 0
        self._fail_open = fail_open
        self._open: list[Grant] = []
        self._settled = 0

    async def reserve(self, prompt: int, room: int, *, exact: bool) -> tuple[int, Settle]:
        """See `core.context.Reserve`."""
        limit = self._limit
        worth = room if exact else min(room, max(1, limit // _WORTHWHILE), max(1, limit - prompt))
        if prompt + worth > limit:
            raise Forbidden(
                f"this API key allows {limit} tokens per minute; "
                f"this request has a prompt of {prompt} and asks for an answer of up to {room}"
            )
        least, most = prompt + worth, min(prompt + room, limit)
        try:
            grant = await self._store.ask(lambda: self._ledger.reserve(self._key_id, limit, least, most))
        except StoreGone as error:
            if not self._fail_open:
                raise LimitsUnknown from error
            return room, partial(self._settle, _NOTHING)
        if grant.tokens < least:
            raise TokenRateExceeded(
                f"this API key has {limit} tokens per minute, of which too few are left for this request, "
                f"which needs {least}",
                _whole_s(grant.left_s),
            )
        self._open.append(grant)
        return grant.tokens - prompt, partial(self._settle, grant)

    async def end(self, used: int) -> None:
        """The request has ended, and took `used` tokens over all its turns."""
        while self._open:
            await self._settle(self._open[0], max(0, used - self._settled))
        await self._settle(_NOTHING, max(0, used - self._settled))

    async def _settle(self, grant: Grant, used: int) -> None:
        if grant in self._open:
            self._open.remove(grant)
        elif not used:
            return
        self._settled += used
        with suppress(StoreGone):  # The answer has been given, and the store has counted that it was gone.
            await self._store.ask(lambda: self._ledger.settle(self._key_id, grant, used))


def _whole_s(left_s: float) -> int:
    """Whole seconds after which something is left again; it is never too early."""
    return max(0, math.floor(left_s)) + 1
