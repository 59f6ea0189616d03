"""Worker processes: started again after a death, ended with the server, given up when they keep dying."""

import asyncio
import os
import pickle
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.catalogue.library import Library
from app.engine.fake.engine import FakeEngine
from app.engine.vllm.process.death_pipe import DeathPipe
from app.fronts.workers import Workers
from app.runtime.manager import Manager
from app.serve import shared_out
from app.settings.environment import BadSetting
from app.settings.server import read_settings
from app.telemetry.setup import start as start_telemetry
from harness.fake_model import fake_model
from tests.unit.garage import A

WORKER = """
import asyncio, os, pickle, signal, socket, sys
from multiprocessing.connection import Connection
from app.engine.vllm.process.death_pipe import end_with
from app.fronts.peer import Peer

async def main(index, channel, life):
    end_with(Connection(life, writable=False))
    end = socket.socket(fileno=channel)
    size = int.from_bytes(end.recv(4, socket.MSG_WAITALL), "little")
    folder, ends_at_once = pickle.loads(end.recv(size, socket.MSG_WAITALL))
    if ends_at_once:
        os._exit(3)
    models, stopped = [], asyncio.Event()

    async def hear(listed):
        models[:] = [str(model.name) for _, model in listed]

    async def serve():
        with open(os.path.join(folder, str(index)), "a") as file:
            file.write(f"{os.getpid()} {' '.join(models)}\\n")

    peer = Peer(end, asks={"models": hear, "serve": serve}, tells={"stop": lambda now: stopped.set()})
    peer.open()
    await stopped.wait()

asyncio.run(main(*map(int, sys.argv[1:])))
"""


@asynccontextmanager
async def workers(folder: Path, *, ends_at_once: bool = False) -> AsyncGenerator[tuple[Workers, list[str]]]:
    """Two workers that write down that they serve; and why they were given up."""
    life, hopeless = DeathPipe(), list[str]()

    async def start(_: Any) -> FakeEngine:
        return FakeEngine()

    manager = Manager(start, keep_alive_s=9, load_timeout_s=9, max_queue=9)
    begin = pickle.dumps((str(folder), ends_at_once))
    fronts = Workers(2, (sys.executable, "-c", WORKER), life.reader.fileno(), begin, "", hopeless.append)
    fronts.join(manager, None, Library([A, fake_model("b")]), start_telemetry().metrics)
    running = asyncio.create_task(fronts.run())
    try:
        yield fronts, hopeless
    finally:
        fronts.kill()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        life.reader.close()


async def served(folder: Path, index: int, times: int) -> list[str]:
    """What a worker has written, once it has served so often."""
    file = folder / str(index)
    await until(lambda: file.exists() and len(file.read_text().splitlines()) >= times)
    return file.read_text().splitlines()


async def until(seen: Callable[[], bool]) -> None:
    """Return once another process has brought about what is looked for: there is nothing to wait on."""
    async with asyncio.timeout(60):
        while not seen():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_worker_that_is_killed_is_started_again(tmp_path: Path) -> None:
    async with workers(tmp_path) as (fronts, hopeless):
        (first,) = await served(tmp_path, 1, 1)
        (second,) = await served(tmp_path, 2, 1)
        pid, *models = first.split()
        assert models == ["a:latest", "b:latest"]
        os.kill(int(pid), signal.SIGKILL)
        _, again = await served(tmp_path, 1, 2)
        assert again != first
        assert (tmp_path / "2").read_text().splitlines() == [second]
        await until(lambda: fronts.hub.serving == 2)
        assert not hopeless


async def test_workers_that_are_told_to_stop_end_and_are_not_started_again(tmp_path: Path) -> None:
    async with workers(tmp_path) as (fronts, _):
        await served(tmp_path, 1, 1)
        await served(tmp_path, 2, 1)
        fronts.stop()
        await until(lambda: not fronts.running)
        assert [len((tmp_path / each).read_text().splitlines()) for each in "12"] == [1, 1]


async def test_workers_that_keep_dying_end_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.fronts.workers._AGAIN_S", (0.01, 0.01))
    async with workers(tmp_path, ends_at_once=True) as (_, hopeless):
        await until(lambda: bool(hopeless))
        assert hopeless[0] == "gave up on the front ends: they keep dying"


MODEL = {"name": "m", "source": "/m"}


def test_what_bounds_a_process_bounds_all_of_them_together() -> None:
    settings = read_settings(front_ends=4, browser_pages=9, max_queue=10, tools=["webview"])
    shared = shared_out(settings)
    assert (shared.browser_pages, shared.max_queue) == (2, 3)
    assert shared.limits.open_body_bytes == settings.limits.open_body_bytes // 4
    assert shared.limits.small_body_bytes == settings.limits.small_body_bytes


def test_one_process_has_all() -> None:
    replicas = MODEL | {"engine": {"data_parallel_size": 2}}
    settings = read_settings(models=[replicas], tools=["webview"], sleep_memory=1 << 30)
    assert shared_out(settings) == settings


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"browser_pages": 1, "tools": ["webview"]}, "CARAVAN_BROWSER_PAGES: 1 pages are too few for 2"),
        (
            {"models": [MODEL | {"engine": {"data_parallel_size": 2}}]},
            "CARAVAN_FRONT_ENDS: data_parallel_size of m is for 1 alone, and 2 are set",
        ),
        ({"sleep_memory": 1}, "CARAVAN_SLEEP_MEMORY is for CARAVAN_FRONT_ENDS of 1 alone, and 2 are set"),
        ({"models": [MODEL | {"engine": {"nnodes": 2}}]}, "CARAVAN_FRONT_ENDS: nnodes of m"),
        ({"models": [MODEL | {"adapter": "/a"}]}, "CARAVAN_FRONT_ENDS: m has an adapter"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSetting, match=reason):
        shared_out(read_settings(front_ends=2, **given))
