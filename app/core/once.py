"""A value that several tasks need and one of them makes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Once(Generic[_T]):
    """One for all that need the value. Where making it fails, whoever needs it next tries again."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._made: list[_T] = []

    async def get(self, make: Callable[[], Awaitable[_T]]) -> _T:
        """The value, by `make` where there is none yet. Raises what `make` does."""
        async with self._lock:
            if not self._made:
                self._made.append(await make())
            return self._made[0]
