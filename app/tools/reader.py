"""Processes that read what servers send, each killed when its time is over.

A thread would not do: libxml2 takes quadratic time for an element of many attributes, trafilatura over 15
seconds for a page of 100,000 paragraphs and pypdf for a content stream of 3 MB, and no thread can be stopped.
What crashes the parsers does not take the server along, and they do not see its memory or environment.
"""

import json
import os
import sys
from asyncio.subprocess import Process
from functools import partial
from typing import Any

from app.core.errors import FetchFailed
from app.core.processes import Died, Late, NotStarted, Processes, Program, Reply
from app.tools.extract import Extracted, ReadLimits
from app.tools.reader_process import HEAD

LIMITS = ReadLimits()
_REPLY_BYTES = 16 << 20
_FULL = "too many pages are being read, please try again"
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
        self._limits = limits
        self._processes = Processes(self._program, _FULL, workers=workers, waiting=waiting, idle_s=idle_s)

    @property
    def processes(self) -> int:
        """Processes that run."""
        return self._processes.count

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
        """End all processes, for good."""
        await self._processes.aclose()

    async def _ask(self, job: dict[str, Any], body: bytes) -> Reply:
        time_s = self._limits.time_s
        with self._processes.place():
            try:
                reply = await self._processes.run(partial(_exchange, job=job, body=body), time_s)
            except Late as error:
                raise FetchFailed(f"reading the page took longer than {time_s:g} s") from error
            except (Died, NotStarted) as error:
                raise FetchFailed(_DIED) from error
        if "refusal" in reply:
            raise FetchFailed(str(reply["refusal"]))
        return reply

    async def _program(self) -> Program:
        # Not this process's environment, which holds secrets: the parsers see what they are given.
        return Program(
            "app.tools.reader_process",
            (json.dumps({name: getattr(self._limits, name) for name in ReadLimits.__slots__}),),
            {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LC_ALL": "C.UTF-8"},
            _greet,
        )


async def _greet(process: Process) -> None:
    assert process.stdout is not None
    await process.stdout.readexactly(1)


async def _exchange(process: Process, job: dict[str, Any], body: bytes) -> Reply:
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
