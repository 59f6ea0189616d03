"""Threads for work whose size a client chooses."""

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

from app.core.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")

_IDLE_S = 60.0
"""A thread without work for so long ends."""


class Pool:
    """At most `workers` threads and `waiting` jobs before them, apart from asyncio's own threads.

    A thread cannot be stopped. These are daemons, so one that never ends holds up its own work and the jobs
    behind it, but neither the server's other work nor its exit.
    """

    def __init__(self, name: str = "client-work", *, workers: int = 2, waiting: int = 64) -> None:
        self._name, self._workers, self._waiting = name, workers, waiting
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._threads = self._running = 0

    @property
    def running(self) -> int:
        """Jobs that a thread is at, those included that nobody waits for any more."""
        return self._running

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns or raises. Leaving takes the job out of the queue, unless it has begun.

        Raises:
            Overloaded: when as many jobs wait as may.
        """
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        job = _Job(loop, loop.create_future(), partial(context.run, work, *args, **kwargs))
        self._put(job)
        try:
            return await job.result
        finally:
            self._discard(job)

    def _put(self, job: "_Job") -> None:
        with self._changed:
            idle = self._threads - self._running
            if len(self._jobs) >= self._waiting + idle + (self._workers - self._threads):
                raise Overloaded("server busy, please try again.  maximum pending requests exceeded")
            self._jobs.append(job)
            if len(self._jobs) > idle and self._threads < self._workers:
                self._threads += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
            self._changed.notify()

    def _discard(self, job: "_Job") -> None:
        if not job.begun:
            with self._changed:
                if job in self._jobs:
                    self._jobs.remove(job)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._jobs:
                    if not self._changed.wait(_IDLE_S) and not self._jobs:
                        self._threads -= 1
                        return
                job = self._jobs.popleft()
                job.begun = True
                self._running += 1
            job.do()
            with self._changed:
                self._running -= 1
            # An idle thread must not keep the last job's result alive.
            del job


class _Job:
    __slots__ = ("begun", "loop", "result", "work")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, result: asyncio.Future[Any], work: Callable[[], Any]
    ) -> None:
        self.loop, self.result, self.work = loop, result, work
        self.begun = False

    def do(self) -> None:
        try:
            end = partial(self._end, self.result.set_result, self.work())
        except BaseException as error:
            end = partial(self._end, self.result.set_exception, error)
        # A loop that is closed raises it, and whoever waited is gone with the loop.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(end)

    def _end(self, settle: Callable[[Any], None], value: Any) -> None:
        if not self.result.done():
            settle(value)
