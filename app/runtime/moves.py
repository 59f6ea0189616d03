"""What takes time and changes the memory of devices: loads, closings, and engines that fall asleep or wake.

Which of them may go side by side is decided before they begin, in `ledger.py`.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

from app.core.tasks import supervise

Move: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Moves:
    """Those under way; false where there are none. After each `on_end` is called, and `on_death` with the
    reason where one raises."""

    def __init__(self, on_end: Callable[[], None], on_death: Callable[[str], None]) -> None:
        self._on_end, self._on_death = on_end, on_death
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, move: Move) -> None:
        work = partial(self._run, move)
        self._tasks.add(supervise("engine moves", work, restart_s=None, on_death=self._on_death))

    async def next_end(self) -> None:
        """Return when one has ended."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _run(self, move: Move) -> None:
        try:
            await move()
        finally:
            self._tasks = {task for task in self._tasks if task is not asyncio.current_task()}
        self._on_end()
