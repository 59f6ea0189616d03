"""An engine's answer as a generator of deltas; closing it aborts the request."""

from collections.abc import AsyncGenerator

from app.core.events import Delta
from app.engine.base import Engine, Prompt, Run


async def deltas_of(engine: Engine, prompt: Prompt, run: Run) -> AsyncGenerator[Delta, None]:
    async with engine.answer(prompt, run) as answer:
        delta = await answer.next()
        while delta.finish is None:
            yield delta
            delta = await answer.next()
        yield delta
