"""Processes that read what servers send, each killed when its time is over.

A thread would not do: libxml2 takes quadratic time for an element of many attributes, trafilatura over 15
seconds for a page of 100,000 paragraphs and pypdf for a content stream of 3 MB, and no thread can be stopped.
What crashes the parsers does not take the server along, and they do not see its memory or environment.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from typing import Any

from app.core.errors import FetchFailed, Overloaded
from app.tools.extract import Extracted, ReadLimits
from app.tools.reader_process import HEAD

LIMITS = ReadLimits()
_START_S = 60.0
_REPLY_BYTES = 16 << 20
_DIED = "the page could not be read: its reader gave up"


class Reader:
    """At most `workers` processes, started when they are needed, and `waiting` jobs before them.

    A process that nothing came for in `idle_s` is ended.
    """

    def __init__(
        self,
        limits: ReadLimits = LIMITS,
        *,
        workers: int = 2,
        waiting: int = 32,
        idle_s: float = 300.0,
    ) -> None:
        self._limits, self._most, self._idle_s = limits, workers + waiting, idle_s
        self._turn = asyncio.Semaphore(workers)
        self._asked = 0
        self._idle: list[Process] = []
        self._all: set[Process] = set()
        self._ending: asyncio.TimerHandle | None = None

    @property
    def processes(self) -> int:
        """Processes that run."""
        return len(self._all)

    async def extract(self, body: bytes, media_type: str, charset: str, url: str) -> Extracted:
        """As `extract.extract`, within this reader's limits.

        Raises:
            FetchFailed: where nothing can be read of it, or not in the time there is.
            Overloaded: when as many jobs wait as may.
        """
        job = {"do": "extract", "media_type": media_type, "charset": charset, "url": url}
        reply = await self._ask(job, body)
        return Extracted(
            str(reply["title"]),
            str(reply["text"]),
            tuple(map(str, reply["links"])),
            bool(reply["is_truncated"]),
        )

    async def allows(self, robots: bytes, agent: str, url: str) -> bool:
        """Whether a robots.txt lets `agent` open `url`.

        Raises:
            FetchFailed: where that cannot be told in the time there is.
            Overloaded: when as many jobs wait as may.
        """
        reply = await self._ask({"do": "robots", "agent": agent, "url": url}, robots)
        return reply["is_allowed"] is True

    async def aclose(self) -> None:
        """End all processes."""
        if self._ending:
            self._ending.cancel()
        for process in tuple(self._all):
            await self._end(process)
        self._idle.clear()

    async def _ask(self, job: dict[str, Any], body: bytes) -> Mapping[str, Any]:
        if self._asked >= self._most:
            raise Overloaded("too many pages are being read, please try again")
        self._asked += 1
        try:
            async with self._turn:
                return await self._run(job, body)
        finally:
            self._asked -= 1

    async def _run(self, job: dict[str, Any], body: bytes) -> Mapping[str, Any]:
        process = self._taken() or await self._start()
        is_kept = False
        try:
            async with asyncio.timeout(self._limits.time_s):
                reply = await _exchange(process, job, body)
            is_kept = not reply["is_spent"]
        except TimeoutError as error:
            raise FetchFailed(f"reading the page took longer than {self._limits.time_s:g} s") from error
        except (OSError, asyncio.IncompleteReadError, ValueError, KeyError, TypeError) as error:
            raise FetchFailed(_DIED) from error
        finally:
            # Whoever waited may be gone in the middle of a job: its process is of no use then.
            if is_kept:
                self._keep(process)
            else:
                await self._end(process)
        if "refusal" in reply:
            raise FetchFailed(str(reply["refusal"]))
        return reply

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
            if process.returncode is None:
                process.kill()
            self._all.discard(process)
        self._idle.clear()

    async def _start(self) -> Process:
        # Not this process's environment, which holds secrets: the parsers see what they are given.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-s", "-m", "app.tools.reader_process"),
            json.dumps({name: getattr(self._limits, name) for name in ReadLimits.__slots__}),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LC_ALL": "C.UTF-8"},
        )
        self._all.add(process)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                await process.stdout.readexactly(1)
        except BaseException as error:
            await self._end(process)
            if isinstance(error, TimeoutError | asyncio.IncompleteReadError):
                raise FetchFailed(_DIED) from error
            raise
        return process

    async def _end(self, process: Process) -> None:
        self._all.discard(process)
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _exchange(process: Process, job: dict[str, Any], body: bytes) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    head = json.dumps(job).encode()
    process.stdin.write(HEAD.pack(len(head), len(body)) + head)
    process.stdin.write(body)
    await process.stdin.drain()
    size, _ = HEAD.unpack(await process.stdout.readexactly(HEAD.size))
    if size > _REPLY_BYTES:
        raise ValueError("a reply of this size is none of a reader")
    return dict(json.loads(await process.stdout.readexactly(size)))
