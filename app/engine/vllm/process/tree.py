"""The processes of an engine: what memory they take, when one dies, and that none outlives its engine."""

import asyncio
import ctypes
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any, ParamSpec

import psutil

from app.core.tasks import supervise
from app.engine.vllm.process.loading import families, report_progress
from app.engine.vllm.stream.client import StreamingLLM

_P = ParamSpec("_P")
_KILL_S = 5.0
_FREED_BYTES_S = 4 << 30
_ABANDON_S = 30.0
_LOOK_S = 0.1
_POLL_S = 0.01
_log = logging.getLogger(__name__)


class EngineProcesses:
    """The cores of one engine with their workers.

    They are noted while all are alive: a worker whose core was killed has no parent to be found by. They
    hold `device_bytes` of the memory of GPUs.
    """

    def __init__(self, llm: StreamingLLM, device_bytes: int = 0) -> None:
        self._device_bytes = device_bytes
        manager: Any = llm.engine_core.resources.engine_manager  # type: ignore[attr-defined]
        cores: Sequence[BaseProcess] = manager.processes if manager else []
        self._sentinels = [core.sentinel for core in cores]
        self._all = families(cores)
        pids = {core.pid for core in cores}
        self._workers = [process for process in self._all if process.pid not in pids] or self._all
        self._gone = asyncio.Event()

    @property
    def resident_bytes(self) -> int:
        return sum(map(_resident, self._all))

    async def own_bytes(self) -> int:
        """Those of devices, and of the host each page divided among the processes that have it. The kernel
        walks all pages for that, which takes milliseconds for each GB."""
        return await asyncio.to_thread(lambda: sum(map(_proportional, self._all))) + self._device_bytes

    def worker_cpu_s(self) -> float:
        """What those that run the model have computed so far, with the compilers they have started."""
        return sum(map(_cpu_s, set(families(self._workers))))

    async def wait_gone(self, hung: Callable[[], Coroutine[Any, Any, None]], model: str) -> None:
        """Return when a core has ended. The kernel makes its sentinel readable then, so nothing polls.

        Once `hung` returns all are killed.
        """
        loop = asyncio.get_running_loop()
        watching = supervise("engine hang", partial(self._kill_after, hung, model))
        for sentinel in self._sentinels:
            loop.add_reader(sentinel, self._gone.set)
        try:
            await self._gone.wait()
        finally:
            for sentinel in self._sentinels:
                loop.remove_reader(sentinel)
            watching.cancel()

    async def _kill_after(self, hung: Callable[[], Coroutine[Any, Any, None]], model: str) -> None:
        await hung()
        _log.error("the engine of %s is hung and is killed", model)
        await asyncio.to_thread(self.kill)

    def note_gone(self) -> None:
        """Whoever finds that the engine works no more says so here."""
        self._gone.set()

    def kill_all(self) -> None:
        """Kill what is still alive, and do not wait for its end."""
        _kill(self._all)

    def kill(self) -> None:
        """Kill what is still alive and wait until the kernel has its memory back, and a driver its own."""
        limit_s = end_limit_s(self.resident_bytes + self._device_bytes)
        self.kill_all()
        deadline, left = time.monotonic() + limit_s, self._all
        while left := [process for process in left if not _ended(process)]:
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)  # noqa: TID251  # in a thread of its own
        for process in left:
            _log.error("process %d of an engine did not exit", process.pid)


def end_limit_s(held_bytes: int) -> float:
    """How long processes may take to end once they are killed: what they hold is freed first."""
    return _KILL_S + held_bytes / _FREED_BYTES_S


async def start_in_thread(
    started: Sequence[BaseProcess],
    start: Callable[_P, StreamingLLM],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> StreamingLLM:
    """Start an engine beside the event loop; its processes are `started` meanwhile.

    A thread cannot be cancelled, so a cancelled start has its processes killed, which makes it fail, and is
    waited for: whoever loads next finds the memory free.
    """
    starting = asyncio.ensure_future(asyncio.to_thread(start, *args, **kwargs))
    telling = supervise("engine load", partial(report_progress, started))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_discard)
        with suppress(TimeoutError):
            async with asyncio.timeout(_ABANDON_S):
                while not starting.done():
                    _kill(families(each for each in started if each.pid is not None))
                    await asyncio.wait({starting}, timeout=_LOOK_S)
        raise
    finally:
        telling.cancel()


def trim_heap() -> None:
    """Hand what a load or a death freed back to the system: glibc would keep it for this process."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _discard(started: asyncio.Future[StreamingLLM]) -> None:
    """Shut down an engine that came up although nobody waits for it any more."""
    if not started.cancelled() and started.exception() is None:
        asyncio.get_running_loop().run_in_executor(None, started.result().shutdown)


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _ended(process: psutil.Process) -> bool:
    """Whether nothing of it runs and it holds no memory; its parent may be slow to hear of that."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
    except psutil.NoSuchProcess:
        return True


def _cpu_s(process: psutil.Process) -> float:
    """Its own and that of its children that have ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system + times.children_user + times.children_system


def _proportional(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.AccessDenied:
        return _resident(process)
    except psutil.NoSuchProcess:
        return 0


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
