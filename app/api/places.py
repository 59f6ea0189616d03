"""How much of one kind goes on at once, of all clients together and of one key."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from app.core.errors import BodiesFull, ConcurrencyExceeded, Draining

_T = TypeVar("_T")


class Places:
    """`most` together and `most_per_key` of one key, 0 being no limit. `what` is how errors call them."""

    def __init__(self, what: str, most: int = 0, most_per_key: int = 0) -> None:
        self._what, self._most, self._most_per_key = what, most, most_per_key
        self._by_key: Counter[str] = Counter()
        self._held: set[asyncio.Task[Any]] = set()
        self._is_ended = False

    @contextmanager
    def one(self, key_id: str) -> Generator[None]:
        """A place; `key_id` is empty where there are no keys.

        Raises:
            BodiesFull, ConcurrencyExceeded: where there is none.
        """
        if 0 < self._most <= self._by_key.total():
            raise BodiesFull(f"the server has too many {self._what} at once, please try again")
        if key_id and 0 < self._most_per_key <= self._by_key[key_id]:
            raise ConcurrencyExceeded(f"this API key has too many {self._what} at once, please try again", 1)
        self._by_key[key_id] += 1
        try:
            yield
        finally:
            self._by_key[key_id] -= 1
            if not self._by_key[key_id]:
                del self._by_key[key_id]

    async def held(self, key_id: str, lines: AsyncGenerator[_T]) -> AsyncGenerator[_T]:
        """`lines`, which have a place until they end, and which one task reads.

        Raises:
            BodiesFull, ConcurrencyExceeded: as `one`, before the first.
            Draining: since `end`.
        """
        if self._is_ended:
            await lines.aclose()
            raise Draining
        task = asyncio.current_task()
        assert task is not None
        async with aclosing(lines):
            with self.one(key_id):
                self._held.add(task)
                try:
                    async for line in lines:
                        yield line
                except asyncio.CancelledError as error:
                    if not self._is_ended:
                        raise
                    task.uncancel()
                    raise Draining from error
                finally:
                    self._held.discard(task)

    async def end(self) -> None:
        """End all that `held` gives: whoever reads it is told."""
        self._is_ended = True
        for task in self._held:
            task.cancel()
