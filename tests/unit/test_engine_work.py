"""What is seen of an engine that gives no output, and that looking holds nothing up."""

import subprocess
import sys
import time
from collections.abc import Callable
from threading import Event
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from app.engine.vllm.process.tree import EngineProcesses, end_limit_s
from app.engine.vllm.process.watchdog import Look
from app.engine.vllm.process.work import Work

SOON_S = 20.0
COMPILES = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"


def eventually(done: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_look_tells_what_was_read_since_the_last_and_once() -> None:
    read: list[str] = []
    work = Work(lambda: 7.0, lambda: read.append("") or True)
    assert work.look(3, owes=True) == Look(3, True)
    eventually(lambda: len(read) == 1)
    eventually(lambda: work.look(3, owes=False) == Look(3, False, 7.0, computing=True))
    assert work.look(3, owes=False) == Look(3, False, 7.0)
    assert len(read) == 1, "nobody asks for an engine that owes nothing"


def test_a_driver_that_does_not_answer_is_no_sign_of_life() -> None:
    """It holds up neither the server nor the judgement, and is asked by one thread alone."""
    asked, never = [], Event()

    def hang() -> bool:
        asked.append("")
        never.wait(SOON_S)
        return True

    work = Work(lambda: 7.0, hang)
    work.look(0, owes=True)
    eventually(lambda: bool(asked))
    for _ in range(5):
        assert work.look(0, owes=True) == Look(0, True, 7.0)
    never.set()
    assert len(asked) == 1


def test_a_reading_that_fails_is_begun_again_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[float] = []

    def cpu_s() -> float:
        asked.append(0.0)
        raise OSError("no such device")

    work = Work(cpu_s, lambda: True)

    def four_times() -> bool:
        assert work.look(0, owes=True) == Look(0, True)
        return len(asked) >= 4

    eventually(four_times)
    told = [record for record in caplog.records if record.name == "app.engine.vllm.process.work"]
    assert [(record.levelname, getattr(record, "error", "")) for record in told] == [
        ("WARNING", "OSError('no such device')")
    ]


def test_what_a_worker_has_compiled_is_its_work() -> None:
    """It waits for the compiler, whose time was nobody's."""
    with subprocess.Popen([sys.executable, "-c", COMPILES]) as worker:
        try:
            core = SimpleNamespace(pid=worker.pid, sentinel=0)
            manager = SimpleNamespace(processes=[core])
            resources = SimpleNamespace(engine_manager=manager)
            llm: Any = SimpleNamespace(engine_core=SimpleNamespace(resources=resources))
            processes = EngineProcesses(llm)
            eventually(lambda: processes.worker_cpu_s() > own(worker.pid) + 0.3)
        finally:
            for process in psutil.Process(worker.pid).children():
                process.kill()
            worker.kill()


def own(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def test_what_held_much_has_longer_to_end() -> None:
    assert end_limit_s(0) == 5
    assert end_limit_s(140 << 30) == 40
