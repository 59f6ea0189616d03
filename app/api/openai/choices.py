"""Several answers to one request as one stream of events."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from app.api.stream import Events
from app.core.events import Event

_FEW = 8
"""How many answers of a request may be on their way to their first token: each has its prompt rendered and
then waits in the queue, and one request must not fill the pools and the queue of all others."""


async def merged(runs: Sequence[Events], turn_to: Callable[[int], None]) -> AsyncGenerator[Sequence[Event]]:
    """The events of all runs as they come; before each item `turn_to` hears whose it is.

    A few runs are begun at once, and another one when one of these has made its first events.
    The first failure is that of all, and closing this closes every run.
    """
    arrived: asyncio.Queue[tuple[int, Sequence[Event] | Exception | None]] = asyncio.Queue(len(runs))

    places = asyncio.Semaphore(_FEW)

    async def drive(index: int, run: Events) -> None:
        try:
            async with aclosing(run):
                async with places:
                    if (first := await anext(run, None)) is not None:
                        await arrived.put((index, first))
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
