"""Several answers to one request as one stream of events."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from app.api.stream import Events
from app.core.events import Event


async def merged(runs: Sequence[Events], turn_to: Callable[[int], None]) -> AsyncGenerator[Sequence[Event]]:
    """The events of all runs as they come; before each item `turn_to` hears whose it is.

    The first failure is that of all, and closing this closes every run.
    """
    arrived: asyncio.Queue[tuple[int, Sequence[Event] | Exception | None]] = asyncio.Queue(len(runs))

    async def drive(index: int, run: Events) -> None:
        try:
            async with aclosing(run):
                async for events in run:
                    await arrived.put((index, events))
            await arrived.put((index, None))
        except Exception as error:
            await arrived.put((index, error))

    tasks = [asyncio.create_task(drive(index, run)) for index, run in enumerate(runs)]
    left = len(tasks)
    try:
        while left:
            index, item = await arrived.get()
            if item is None:
                left -= 1
                continue
            if isinstance(item, Exception):
                raise item
            turn_to(index)
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
