"""An end to the time that a request may take."""

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from app.core.errors import DeadlineExceeded

_TEXT = "the request took longer than this server allows"


@asynccontextmanager
async def within(limit_s: float) -> AsyncGenerator[None, None]:
    """Cancel the body after `limit_s` seconds and raise `DeadlineExceeded`; `inf` is no limit."""
    limit = asyncio.timeout(limit_s if math.isfinite(limit_s) else None)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceeded(_TEXT) from error
