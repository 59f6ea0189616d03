"""Processes that do jobs for this one, each kept for the next job and killed where one takes too long."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from app.core.errors import Overloaded

_START_S = 60.0
_TOLD_S = 2.0

Reply: TypeAlias = Mapping[str, Any]
"""What a job comes to; its `is_spent` says that the process is to get no other."""


class Late(Exception):
    """A job took longer than it may, and its process was killed."""


class NotStarted(Exception):
    """No process can be had."""


class Died(Exception):
    """A process ended at a job, or answered what its program does not; `status` is its `returncode`."""

    def __init__(self, status: int | None) -> None:
        self.status = status
        super().__init__(status)


@dataclass(frozen=True, slots=True)
class Program:
    """A module of Python, its `arguments` and its whole `environment`; `greet` waits until it is ready."""

    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    greet: Callable[[Process], Awaitable[None]]


class Processes:
    """At most `workers` processes of a program, started when they are needed, and `waiting` jobs before them.

    A process that nothing came for in `idle_s` is ended. `full` is what is said where no more jobs may wait.
    """

    def __init__(
        self,
        program: Callable[[], Awaitable[Program]],
        full: str,
        *,
        workers: int,
        waiting: int,
        idle_s: float,
    ) -> None:
        self._program, self._full = program, full
        self._most, self._idle_s = workers + waiting, idle_s
        self._turn = asyncio.Semaphore(workers)
        self._asked = 0
        self._idle: list[Process] = []
        self._all: set[Process] = set()
        self._ending: asyncio.TimerHandle | None = None
        self._ends: set[asyncio.Future[None]] = set()
        self.is_closed = False

    @property
    def count(self) -> int:
        """Processes that run."""
        return len(self._all)

    @contextmanager
    def place(self) -> Generator[None]:
        """A place among the jobs that run and wait.

        Raises:
            Overloaded: when as many wait as may.
        """
        if self._asked >= self._most:
            raise Overloaded(self._full)
        self._asked += 1
        try:
            yield
        finally:
            self._asked -= 1

    async def run(self, exchange: Callable[[Process], Awaitable[Reply]], time_s: float) -> Reply:
        """What `exchange` makes of a process that has no other job meanwhile; the caller has a `place`.

        Raises:
            Late: after `time_s`, which the start of a process is no part of.
            Died, NotStarted.
        """
        async with self._turn:
            process = self._taken() or await self._start()
            is_kept = False
            try:
                async with asyncio.timeout(time_s):
                    reply = await exchange(process)
                is_kept = not reply["is_spent"]
            except TimeoutError as error:
                raise Late from error
            except (OSError, asyncio.IncompleteReadError, ValueError, KeyError, TypeError) as error:
                raise Died(await self._status(process)) from error
            finally:
                # Whoever waited may be gone in the middle of a job: its process is of no use then.
                if is_kept and not self.is_closed:
                    self._keep(process)
                else:
                    await self._end(process)
            return reply

    async def aclose(self) -> None:
        """End all processes, for good."""
        self.is_closed = True
        if self._ending:
            self._ending.cancel()
        self._end_idle()
        await asyncio.gather(*self._ends)
        for process in tuple(self._all):
            await self._killed(process)  # its job fails now, and closes its pipes

    def _taken(self) -> Process | None:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
            self._all.discard(process)
        return None

    def _keep(self, process: Process) -> None:
        self._idle.append(process)
        if self._ending:
            self._ending.cancel()
        self._ending = asyncio.get_running_loop().call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        for process in self._idle:
            self._ends.add(end := asyncio.ensure_future(self._end(process)))
            end.add_done_callback(self._ends.discard)
        self._idle.clear()

    async def _start(self) -> Process:
        if self.is_closed:
            raise NotStarted
        program = await self._program()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-s", "-m", program.module, *program.arguments),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=program.environment,
        )
        self._all.add(process)
        try:
            if self.is_closed:  # since it was asked for: `aclose` has not seen it
                raise NotStarted
            async with asyncio.timeout(_START_S):
                await program.greet(process)
        except BaseException as error:
            await self._end(process)
            if isinstance(error, asyncio.IncompleteReadError | OSError | ValueError):
                raise NotStarted from error
            raise
        return process

    async def _status(self, process: Process) -> int | None:
        """How it has ended, which is told a moment after its pipes are closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_TOLD_S):
                await process.wait()
        return process.returncode

    async def _killed(self, process: Process) -> None:
        if process.returncode is None:
            process.kill()
        await process.wait()
        self._all.discard(process)

    async def _end(self, process: Process) -> None:
        await self._killed(process)
        # Its pipes are closed only once their ends have been seen: a loop that ends before leaves them open.
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        with suppress(OSError):
            await process.stdin.wait_closed()
        await process.stdout.read()
