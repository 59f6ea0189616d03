"""Each harm does what it says to real processes, and says when all is well again."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from chaos import harm
from chaos.answers import Answer
from chaos.site import Site, Unsettled, eventually, name_of

WAIT_S = 30.0
SLEEPER = (sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)")


class Ward(Site):
    """Four processes stand for two engines; who has ended is replaced when somebody looks."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", psutil.Process(), httpx.AsyncClient(), Path())
        self.__dict__["started"] = [self._start(part) for part in ("Engine", "Worker") * 2]

    def _start(self, part: str) -> tuple[str, psutil.Process, subprocess.Popen[bytes]]:
        process = subprocess.Popen(SLEEPER, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()  # it has started
        process.stdout.close()
        return part, psutil.Process(process.pid), process

    @property
    def _started(self) -> list[tuple[str, psutil.Process, "subprocess.Popen[bytes]"]]:
        return self.__dict__["started"]

    def engines(self, part: str = "") -> list[psutil.Process]:
        for at, (kind, _, process) in enumerate(self._started):
            if process.poll() is not None:
                self._started[at] = self._start(kind)
        return [seen for kind, seen, _ in self._started if part in kind]

    async def is_ready(self) -> bool:
        return True

    def close(self) -> None:
        for _, _, process in self._started:
            process.kill()
            process.wait()


def stopped(ward: Ward) -> list[psutil.Process]:
    return [each for each in ward.engines() if each.status() == psutil.STATUS_STOPPED]


@pytest.fixture
def ward() -> Iterator[Ward]:
    made = Ward()
    yield made
    made.close()


def test_who_has_ended_is_counted_no_more() -> None:
    """A zombie counted as an engine would make a server look well before it knows of the death."""
    with subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL) as child:
        seen = psutil.Process(child.pid)
        assert name_of(seen)
        seen.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert harm.is_gone(seen)
        assert name_of(seen) == ""


@pytest.mark.parametrize("part", ["Engine", "Worker"])
async def test_a_kill_takes_one_and_waits_for_its_successor(ward: Ward, part: str) -> None:
    before = ward.engines()
    window = await harm.kill(part)(ward)
    after = ward.engines()
    assert len(after) == len(before)
    (gone,) = (each for each in before if each not in after)
    assert harm.is_gone(gone)
    assert window.told_s == 2.0
    assert window.explains(Answer(500, began=window.began - 1, ended=window.began + 1))


async def test_a_pause_stops_and_lets_go(ward: Ward) -> None:
    before = ward.engines()
    pausing = asyncio.create_task(harm.pause("Worker", 1.0)(ward))
    await eventually(lambda: len(stopped(ward)) == 2, WAIT_S, "two that are stopped")
    assert set(stopped(ward)) == set(ward.engines("Worker"))
    window = await pausing
    await eventually(lambda: not stopped(ward), WAIT_S, "all going on")
    assert ward.engines() == before
    now = time.monotonic()
    assert not window.explains(Answer(500, began=window.began, ended=now)), "a pause excuses no failure"


async def test_what_hangs_is_waited_for(ward: Ward) -> None:
    hanging = asyncio.create_task(harm.hang("Engine", 30)(ward))
    await eventually(lambda: stopped(ward), WAIT_S, "one that is stopped")
    (victim,) = stopped(ward)
    victim.kill()
    window = await hanging
    assert "SIGSTOP for good" in window.harm
    assert len(ward.engines()) == 4


async def test_what_hangs_for_ever_is_let_go_and_told(ward: Ward) -> None:
    with pytest.raises(Unsettled, match="an end of what hangs"):
        await harm.hang("Engine", 0.2)(ward)
    await eventually(lambda: not stopped(ward), WAIT_S, "all going on")


async def test_no_memory_is_given_back(ward: Ward) -> None:
    starving = asyncio.create_task(harm.starve_of_memory(1.0)(ward))
    await asyncio.sleep(0)
    workers = ward.engines("Worker")
    assert all(each.rlimit(psutil.RLIMIT_AS)[0] != psutil.RLIM_INFINITY for each in workers)
    window = await starving
    assert all(each.rlimit(psutil.RLIMIT_AS)[0] == psutil.RLIM_INFINITY for each in workers)
    assert "0 died" in window.harm


async def test_hogs_end(ward: Ward) -> None:
    before = len(psutil.Process().children())
    hogging = asyncio.create_task(harm.hog(1.0, 2)(ward))
    await eventually(lambda: len(psutil.Process().children()) == before + 2, WAIT_S, "hogs")
    await hogging
    assert len(psutil.Process().children()) == before
