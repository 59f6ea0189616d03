"""Many jobs of one request, a few at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from app.core.errors import AppError

T = TypeVar("T")
R = TypeVar("R")


async def in_window(work: Callable[[T], Awaitable[R]], items: Sequence[T], width: int) -> list[R]:
    """The results of `work` for each item, in their order; at most `width` are under way at once.

    Raises:
        AppError: the first that one of them raised; the others are cancelled.
    """
    found: dict[int, R] = {}
    left = iter(enumerate(items))

    async def one_after_another() -> None:
        for at, item in left:
            found[at] = await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(width, len(items))):
                group.create_task(one_after_another())
    except* AppError as errors:
        # The group would hold the error that holds the group, and both the frames of the engine.
        raise errors.exceptions[0] from None
    return [found[at] for at in range(len(items))]
