"""Processes that do jobs: started, kept, ended and replaced, with real ones of a small program."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.core.errors import Overloaded
from app.core.processes import Died, Late, NotStarted, Processes, Program, Reply

FOREVER_S = 600.0


async def greet(process: Process) -> None:
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        raise ValueError("another program")


async def program(says: str = "ready") -> Program:
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return Program("tests.unit.line_process", (says,), path, greet)


async def another() -> Program:
    return await program("no")


class Jobs:
    """Jobs for processes, and the process that had the last one."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.last: Process | None = None

    async def __call__(self, time_s: float = 60, **job: Any) -> Reply:
        async def exchange(process: Process) -> Reply:
            self.last = process
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(job).encode() + b"\n")
            await process.stdin.drain()
            return json.loads(await process.stdout.readuntil())

        with self.processes.place():
            return await self.processes.run(exchange, time_s)

    async def pid(self) -> int:
        await self()
        assert self.last is not None
        return self.last.pid


@asynccontextmanager
async def working(
    *, workers: int = 1, waiting: int = 8, idle_s: float = FOREVER_S, make: Any = program
) -> AsyncGenerator[Jobs]:
    made = Processes(make, "too many", workers=workers, waiting=waiting, idle_s=idle_s)
    try:
        yield Jobs(made)
    finally:
        await made.aclose()
    assert made.count == 0


async def test_a_process_does_one_job_after_the_other() -> None:
    async with working() as jobs:
        assert jobs.processes.count == 0
        assert (await jobs(said="x"))["said"] == "x"
        assert await jobs.pid() == await jobs.pid()
        assert jobs.processes.count == 1


async def test_one_that_is_spent_gets_no_other_job() -> None:
    async with working() as jobs:
        first = await jobs.pid()
        await jobs(is_spent=True)
        assert jobs.processes.count == 0
        assert await jobs.pid() != first


async def test_what_takes_too_long_is_killed_and_the_next_job_is_done() -> None:
    async with working() as jobs:
        with pytest.raises(Late):
            await jobs(time_s=0.2, sleep_s=FOREVER_S)
        assert jobs.processes.count == 0
        assert (await jobs(said="x"))["said"] == "x"


async def test_one_that_dies_tells_how_and_is_replaced() -> None:
    async with working() as jobs:
        with pytest.raises(Died) as death:
            await jobs(exit=7)
        assert death.value.status == 7
        assert jobs.processes.count == 0
        assert (await jobs(said="x"))["said"] == "x"


async def test_one_that_died_while_nobody_asked_is_not_asked() -> None:
    async with working() as jobs:
        first = await jobs.pid()
        assert jobs.last is not None
        jobs.last.kill()
        await jobs.last.wait()
        assert await jobs.pid() != first
        assert jobs.processes.count == 1


async def test_whoever_leaves_takes_the_process_along() -> None:
    async with working() as jobs:
        await jobs()
        job = asyncio.ensure_future(jobs(sleep_s=FOREVER_S))
        await asyncio.sleep(0.1)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert jobs.processes.count == 0


async def test_more_than_may_wait_are_refused() -> None:
    async with working(waiting=1) as jobs:
        begun = [asyncio.ensure_future(jobs()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="too many"):
            await jobs()
        await asyncio.gather(*begun)
        await jobs()


async def test_one_that_nothing_comes_for_is_ended() -> None:
    async with working(idle_s=0.05) as jobs:
        await jobs()
        for _ in range(200):
            if not jobs.processes.count:
                break
            await asyncio.sleep(0.05)
        assert not jobs.processes.count


async def test_a_program_that_does_not_greet_is_ended() -> None:
    async with working(make=another) as jobs:
        with pytest.raises(NotStarted):
            await jobs()
        assert jobs.processes.count == 0


async def test_nothing_is_started_or_kept_after_the_close() -> None:
    async with working() as jobs:
        await jobs()
        job = asyncio.ensure_future(jobs(sleep_s=FOREVER_S))
        await asyncio.sleep(0.1)
        await jobs.processes.aclose()
        with pytest.raises(Died):
            await job
        assert jobs.processes.count == 0
        with pytest.raises(NotStarted):
            await jobs()


async def test_one_that_is_being_started_at_the_close_gets_no_job() -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def slow() -> Program:
        begun.set()
        await goes_on.wait()
        return await program()

    async with working(make=slow) as jobs:
        job = asyncio.ensure_future(jobs(sleep_s=FOREVER_S))
        await begun.wait()
        await jobs.processes.aclose()
        goes_on.set()
        with pytest.raises(NotStarted):
            await job
        assert jobs.processes.count == 0
