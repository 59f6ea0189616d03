"""What holds scripted replies back until a test lets them go."""

import asyncio
import threading


class Gate:
    """Holds every delta of every reply back until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[asyncio.Future[None]] = []

    async def __call__(self, _: int) -> None:
        self._loop = asyncio.get_running_loop()
        if not self._open.is_set():
            self._waiting.append(held := self._loop.create_future())
            await held

    def open(self) -> None:
        self._open.set()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        for held in self._waiting:
            if not held.done():
                held.set_result(None)
