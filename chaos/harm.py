"""What is done to a running server, and how long it takes to be well again."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import psutil

from chaos.site import LOAD_S, Site, eventually
from chaos.tally import TOLD_S, Window

Harm: TypeAlias = Callable[[Site], Coroutine[Any, Any, Window]]

_ENGINE_PROCESSES = 4
"""A core and a worker for each of the two models."""


def is_gone(process: psutil.Process) -> bool:
    """Whether it has ended; one whose parent is gone too may be left as a zombie for a while."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def repaired(site: Site, dead: list[psutil.Process]) -> float:
    """The seconds until the dead are gone and the server has all its engines and says that it can answer."""

    async def well() -> bool:
        if not all(map(is_gone, dead)) or len(site.engines()) != _ENGINE_PROCESSES:
            return False
        return await site.is_ready()

    return await eventually(well, LOAD_S, "all engines again")


def kill(part: str, at: int = 0) -> Harm:
    """SIGKILL to a core or a worker; `at` picks the engine, the eldest first."""

    async def harm(site: Site) -> Window:
        victim = sorted(site.engines(part), key=lambda each: each.create_time())[at]
        began = time.monotonic()
        victim.kill()
        took_s = await repaired(site, [victim])
        return Window(
            f"kill -9 of an engine's {part.lower()}, well after {took_s:.1f} s",
            began,
            time.monotonic(),
            TOLD_S,
        )

    return harm


def pause(part: str, seconds: float) -> Harm:
    """SIGSTOP to every core or worker, SIGCONT a little later: nobody may notice more than a delay."""

    async def harm(site: Site) -> Window:
        stopped, began = site.engines(part), time.monotonic()
        for process in stopped:
            process.suspend()
        await asyncio.sleep(seconds)
        for process in stopped:
            process.resume()
        # The window is empty: no failure is forgiven.
        return Window(f"SIGSTOP of the {part.lower()}s for {seconds:g} s", began, began - 1)

    return harm


def hang(part: str, patience_s: float) -> Harm:
    """SIGSTOP for good to the eldest engine: the server must notice by itself and start another."""

    async def harm(site: Site) -> Window:
        victim = min(site.engines(part), key=lambda each: each.create_time())
        began = time.monotonic()
        victim.suspend()
        try:
            gone_s = await eventually(lambda: is_gone(victim), patience_s, "an end of what hangs")
        finally:
            with suppress(psutil.NoSuchProcess):
                victim.resume()
        took_s = gone_s + await repaired(site, [victim])
        well = f"ended after {gone_s:.1f} s, well after {took_s:.1f} s"
        told = f"SIGSTOP for good of an engine's {part.lower()}, {well}"
        return Window(told, began, time.monotonic(), gone_s + TOLD_S)

    return harm


def hog(seconds: float, hogs: int) -> Harm:
    """Other programs that want all of the processor: slow, but nothing fails."""

    async def harm(_: Site) -> Window:
        began = time.monotonic()
        async with _hogs(hogs):
            await asyncio.sleep(seconds)
        return Window(f"{hogs} processes that use all of the processor for {seconds:g} s", began, began - 1)

    return harm


@asynccontextmanager
async def _hogs(count: int) -> AsyncGenerator[None, None]:
    hog = (sys.executable, "-c", "while True: pass")
    started = [await asyncio.create_subprocess_exec(*hog) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            await process.wait()


def starve_of_memory(seconds: float) -> Harm:
    """The workers may map no more memory than they have. They do without, or die and are replaced."""

    async def harm(site: Site) -> Window:
        workers, began = site.engines("Worker"), time.monotonic()
        for worker in workers:
            size = worker.memory_info().vms
            worker.rlimit(psutil.RLIMIT_AS, (size, psutil.RLIM_INFINITY))
        await asyncio.sleep(seconds)
        alive = 0
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.rlimit(psutil.RLIMIT_AS, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
                alive += 1
        took_s = await repaired(site, [])
        died = f"{len(workers) - alive} died, well {took_s:.1f} s later"
        told = f"no more memory for the workers for {seconds:g} s, {died}"
        return Window(told, began, time.monotonic())

    return harm
