"""That an engine that loads is seen to move, and that one that stands still is not."""

import asyncio
import multiprocessing
import time
from multiprocessing.process import BaseProcess

import pytest

from app.core import progress
from app.engine.vllm.process.loading import Effort, effort, report_progress


@pytest.mark.parametrize(
    ("now", "grown"),
    [
        (Effort(1.0, 100, 100), False),
        (Effort(1.04, 100, 100), False),
        (Effort(1.05, 100, 100), True),
        (Effort(1.0, 100 + (1 << 20), 100), True),
        (Effort(1.0, 100, 100 + (1 << 20)), True),
        (Effort(0.0, 0, 0), False),  # a process has ended
    ],
)
def test_what_is_progress(now: Effort, grown: bool) -> None:
    assert now.has_grown(Effort(1.0, 100, 100)) is grown


def compute(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


async def test_a_process_that_computes_is_seen_to_move_and_one_that_sleeps_is_not() -> None:
    told: list[float] = []
    progress.listen(lambda: told.append(time.monotonic()))
    started: list[BaseProcess] = []
    looking = asyncio.create_task(report_progress(started, look_s=0.1))
    context = multiprocessing.get_context("fork")
    working = context.Process(target=compute, args=(30,), daemon=True)
    started.append(working)
    working.start()
    try:
        async with asyncio.timeout(30):
            while len(told) < 2:  # noqa: ASYNC110  # told by a thread of psutil's
                await asyncio.sleep(0.05)
        assert effort([working]).cpu_s > 0
    finally:
        working.kill()
        working.join()
    sleeping = context.Process(target=time.sleep, args=(30,), daemon=True)
    started[:] = [sleeping]
    sleeping.start()
    try:
        await asyncio.sleep(0.5)
        told.clear()
        await asyncio.sleep(0.5)
        assert told == []
    finally:
        sleeping.kill()
        sleeping.join()
        looking.cancel()


def test_a_process_that_has_gone_is_no_failure() -> None:
    gone = multiprocessing.get_context("fork").Process(target=int)
    gone.start()
    gone.join()
    assert effort([gone]) == Effort(0.0, 0, 0)
