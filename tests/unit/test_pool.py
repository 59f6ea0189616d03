"""The threads of what clients choose the size of: bounded, and left behind at exit (F3)."""

import asyncio
import subprocess
import sys
import threading

import pytest

from app.core.errors import Overloaded
from app.core.pool import Pool


class Stuck:
    """Work that ends when told to."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(60)
        return "done"

    async def seen(self) -> None:
        await asyncio.to_thread(self.begun.wait, 60)


async def test_gives_back_what_the_work_returns_and_raises() -> None:
    pool = Pool()
    assert await pool.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await pool.run(divmod, 7, 0)
    assert await pool.run(lambda: threading.current_thread().daemon)


def has_thread(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())


async def test_a_thread_without_work_ends_and_another_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.core.pool._IDLE_S", 0)
    pool = Pool("ends-when-idle", workers=1)
    for number in range(3):
        assert await pool.run(divmod, number, 1) == (number, 0)
        async with asyncio.timeout(60):
            while has_thread("ends-when-idle"):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.001)


async def test_more_than_may_wait_is_overload() -> None:
    pool, stuck = Pool(workers=1, waiting=1), Stuck()
    first = asyncio.ensure_future(pool.run(stuck))
    await stuck.seen()
    second = asyncio.ensure_future(pool.run(lambda: "second"))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await pool.run(lambda: "third")
    stuck.may_end.set()
    assert await asyncio.gather(first, second) == ["done", "second"]
    assert await pool.run(lambda: "fourth") == "fourth"


async def test_work_runs_side_by_side_up_to_the_number_of_workers() -> None:
    pool, stuck = Pool(workers=2, waiting=4), (Stuck(), Stuck())
    waiting = [asyncio.ensure_future(pool.run(one)) for one in stuck]
    for one in stuck:
        await one.seen()
    assert pool.running == 2
    third = asyncio.ensure_future(pool.run(lambda: "third"))
    stuck[0].may_end.set()
    assert await waiting[0] == "done"
    assert await third == "third"
    stuck[1].may_end.set()
    assert await waiting[1] == "done"


async def test_who_leaves_makes_room_in_the_queue() -> None:
    pool, stuck, ran = Pool(workers=1, waiting=1), Stuck(), list[str]()
    first = asyncio.ensure_future(pool.run(stuck))
    await stuck.seen()
    left = asyncio.ensure_future(pool.run(ran.append, "left"))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    stays = asyncio.ensure_future(pool.run(ran.append, "stays"))
    stuck.may_end.set()
    await asyncio.gather(first, stays)
    assert ran == ["stays"]


async def test_who_leaves_running_work_is_not_told_of_its_end() -> None:
    pool, stuck = Pool(workers=1), Stuck()
    waiting = asyncio.ensure_future(pool.run(stuck))
    await stuck.seen()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pool.running == 1
    stuck.may_end.set()
    assert await pool.run(lambda: "next") == "next"


def test_a_thread_that_never_ends_does_not_hold_up_the_exit() -> None:
    program = """
import asyncio, threading
from app.core.pool import Pool
begun = threading.Event()
def never():
    begun.set()
    threading.Event().wait()
async def main():
    task = asyncio.ensure_future(Pool().run(never))
    await asyncio.to_thread(begun.wait)
    task.cancel()
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
