"""Whether all that was lent is back: an idle engine's places, and what an idle key may use."""

import asyncio
from contextlib import AsyncExitStack

from app.access.ledger import Ledger
from app.access.limiter import Limiter
from app.core.context import Caller, RequestContext
from app.core.errors import ConcurrencyExceeded, RateLimited
from app.runtime.queue import Turns


async def tokens_of(limiter: Limiter, key_id: str, limit: int) -> tuple[int, int]:
    """The tokens that a key has used in this minute, and those that it could set aside now."""
    ledger: Ledger = vars(limiter)["_ledger"]
    used, _ = await ledger.used(key_id)
    grant = await ledger.reserve(key_id, limit, 0, limit)
    await ledger.settle(key_id, grant, 0)
    return used, grant.tokens


async def are_free(turns: Turns, slots: int) -> bool:
    """Whether all places of an idle engine can be had at once."""
    try:
        async with AsyncExitStack() as held, asyncio.timeout(1.0):
            for index in range(slots):
                await held.enter_async_context(turns.turn(f"probe{index}", 0, 0))
    except TimeoutError:
        return False
    return turns.waiting == 0


async def may_ask(limiter: Limiter, caller: Caller) -> bool:
    """Whether a key that is idle may have all its requests at once."""
    async with AsyncExitStack() as held:
        try:
            for _ in range(caller.limits.concurrent_requests or 0):
                await held.enter_async_context(limiter.admit(RequestContext(caller=caller)))
        except ConcurrencyExceeded:
            return False
        except RateLimited:
            pass
    return True
