"""When a process of an engine counts as ended."""

import subprocess
import sys
import time
from collections.abc import Generator

import psutil
import pytest

from app.engine.vllm.process import tree as processes

SOON_S = 10.0


@pytest.fixture
def child() -> Generator[psutil.Process]:
    """One that nobody waits for until the test is over: once killed, it stays as a zombie."""
    started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield psutil.Process(started.pid)
    started.kill()
    started.communicate()


def ended(process: psutil.Process) -> bool:
    return processes._ended(process)  # pyright: ignore[reportPrivateUsage]  # what `kill` waits for


def test_one_that_runs_has_not_ended(child: psutil.Process) -> None:
    assert not ended(child)


def test_one_whose_parent_has_not_heard_of_its_end_has_ended(child: psutil.Process) -> None:
    child.kill()
    deadline = time.monotonic() + SOON_S
    while not ended(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert child.status() == psutil.STATUS_ZOMBIE


def test_one_that_is_not_there_has_ended(child: psutil.Process) -> None:
    child.kill()
    child.wait(SOON_S)
    assert ended(child)
