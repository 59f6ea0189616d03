"""Processes that run templates and tokenizers of others, each killed when its time is over."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from app.core.confinement import environment_of
from app.core.errors import EngineFailed, InvalidRequest, Overloaded
from app.core.pool import Pool
from app.engine.confined.program import HEAD, READY

_START_S = 60.0
_TOLD_S = 2.0
_HOME = "/nonexistent"
_LONG_BYTES = 1 << 16
"""Of a reply, from which on a thread is worth its way there and back."""

_LATE = signal.SIGPROF


@dataclass(frozen=True, slots=True)
class HelperLimits:
    """What a process may take for a job, and how much it may answer.

    Processor time is `time_s`, and a second more for each `bytes_a_second` that are sent to it; by the clock
    it may take `slowness` times as long, on a busy machine. The answer's text has `reply_bytes`, and
    `growth` times what was sent. Memory is `memory_bytes`, and `tokenizer_growth` times the tokenizer's file.
    """

    time_s: float = 2.0
    bytes_a_second: int = 256 << 10
    slowness: float = 5.0
    memory_bytes: int = 256 << 20
    tokenizer_growth: int = 16
    reply_bytes: int = 256 << 10
    growth: int = 8


class Helpers:
    """At most `workers` processes, started when they are needed, and `waiting` jobs before them.

    `tokenizer` gives what `tokenizer.json` holds, for jobs that make tokens; None is for templates alone.
    A process that nothing came for in `idle_s` is ended. `what` names the model in errors. Jobs are written
    down in `pool`.
    """

    def __init__(
        self,
        what: str,
        pool: Pool,
        tokenizer: Callable[[], Awaitable[bytes]] | None = None,
        limits: HelperLimits | None = None,
        *,
        workers: int = 2,
        waiting: int = 64,
        idle_s: float = 300.0,
    ) -> None:
        self._what, self._pool, self._tokenizer = what, pool, tokenizer
        self._limits, self._most, self._idle_s = limits or HelperLimits(), workers + waiting, idle_s
        self._turn = asyncio.Semaphore(workers)
        self._asked = 0
        self._idle: list[Process] = []
        self._all: set[Process] = set()
        self._ending: asyncio.TimerHandle | None = None
        self._ends: set[asyncio.Future[None]] = set()
        self._is_closed = False

    @property
    def processes(self) -> int:
        """Processes that run."""
        return len(self._all)

    async def ask(self, job: Mapping[str, Any]) -> Mapping[str, Any]:
        """What `program.py` answers to `job`.

        Raises:
            InvalidRequest: where the template or tokenizer refuses, or takes more than it may.
            Overloaded: when as many jobs wait as may.
            EngineFailed: where no process can be had.
        """
        if self._asked >= self._most:
            raise Overloaded("server busy, please try again.  maximum pending requests exceeded")
        self._asked += 1
        try:
            # A conversation may have megabytes.
            data = await self._pool.run(self._written, job)
            async with self._turn:
                reply = await self._run(*data)
        finally:
            self._asked -= 1
        if "refusal" in reply:
            raise InvalidRequest(str(reply["refusal"]))
        return reply

    async def aclose(self) -> None:
        """End all processes, for good."""
        self._is_closed = True
        if self._ending:
            self._ending.cancel()
        for process in tuple(self._all):
            await self._end(process)
        await asyncio.gather(*self._ends)
        self._idle.clear()

    def _written(self, job: Mapping[str, Any]) -> tuple[bytes, float, int]:
        """The job as it is sent, the processor time for it, and the bytes that may come back."""
        limits = self._limits
        size = len(json.dumps(job))
        time_s = limits.time_s + size / limits.bytes_a_second
        most = limits.reply_bytes + limits.growth * size
        return json.dumps({**job, "time_s": time_s, "most_bytes": most}).encode(), time_s, most

    async def _run(self, data: bytes, time_s: float, most: int) -> Mapping[str, Any]:
        process = self._taken() or await self._start()
        is_kept = False
        try:
            async with asyncio.timeout(self._limits.slowness * time_s):
                # Each byte and each token takes at most eight characters of JSON.
                reply = await self._exchange(process, data, 16 * most)
            is_kept = not reply["is_spent"]
        except TimeoutError as error:
            raise InvalidRequest(f"it takes longer than {self._limits.slowness * time_s:.1f} s") from error
        except (OSError, asyncio.IncompleteReadError, ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(await self._death(process, time_s)) from error
        finally:
            # Whoever waited may be gone in the middle of a job: its process is of no use then.
            if is_kept and not self._is_closed:
                self._keep(process)
            else:
                await self._end(process)
        return reply

    async def _death(self, process: Process, time_s: float) -> str:
        """Why it has ended, which is told a moment after its pipes are closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_TOLD_S):
                await process.wait()
        await self._end(process)
        if process.returncode == -_LATE:
            return f"it takes longer than {time_s:.1f} s of processor time"
        return "it takes too much memory, or harms the process that runs it"

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
        if self._is_closed:
            raise EngineFailed(f"the engine of {self._what} has ended")
        file = await self._tokenizer() if self._tokenizer else b""
        memory_bytes = self._limits.memory_bytes + self._limits.tokenizer_growth * len(file)
        more = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-s", "-m", "app.engine.confined.program"),
            *(str(os.getpid()), str(memory_bytes), str(_START_S)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=environment_of(os.environ, _HOME, 1) | more,  # noqa: TID251
        )
        self._all.add(process)
        try:
            async with asyncio.timeout(_START_S):
                await _send(process, file)
                assert process.stdout is not None
                if await process.stdout.readexactly(len(READY)) != READY:
                    raise ValueError("no process of ours")
        except BaseException as error:
            await self._end(process)
            if isinstance(error, TimeoutError | asyncio.IncompleteReadError | OSError | ValueError):
                raise EngineFailed(f"the process for the template of {self._what} does not start") from error
            raise
        return process

    async def _exchange(self, process: Process, data: bytes, most: int) -> Mapping[str, Any]:
        assert process.stdout is not None
        await _send(process, data)
        (size,) = HEAD.unpack(await process.stdout.readexactly(HEAD.size))
        if size > most:
            raise ValueError("a reply of this size is none of a helper")
        reply = await process.stdout.readexactly(size)
        return await self._pool.run(orjson.loads, reply) if size > _LONG_BYTES else orjson.loads(reply)

    async def _end(self, process: Process) -> None:
        if process.returncode is None:
            process.kill()
        await process.wait()
        self._all.discard(process)
        # Its pipes are closed only once their ends have been seen: a loop that ends before leaves them open.
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        with suppress(OSError):
            await process.stdin.wait_closed()
        await process.stdout.read()


async def _send(process: Process, data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(HEAD.pack(len(data)) + data)
    await process.stdin.drain()
