"""Signs of life of an engine that loads: its processes compute, read or take memory."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import psutil

from app.core import progress

LOOK_S = 1.0
_LEAST_CPU_S = 0.05
_LEAST_BYTES = 1 << 20


class Effort(NamedTuple):
    """What processes have done so far."""

    cpu_s: float
    read_bytes: int
    resident_bytes: int

    def has_grown(self, before: "Effort") -> bool:
        return (
            self.cpu_s - before.cpu_s >= _LEAST_CPU_S
            or self.read_bytes - before.read_bytes >= _LEAST_BYTES
            or self.resident_bytes - before.resident_bytes >= _LEAST_BYTES
        )


async def report_progress(started: Sequence[BaseProcess], *, look_s: float = LOOK_S) -> None:
    """Tell of progress while the processes `started`, which may become more, show any; ends when it is
    cancelled."""
    report = progress.listener()
    last = Effort(0.0, 0, 0)
    while True:
        await asyncio.sleep(look_s)
        now = await asyncio.to_thread(effort, [each for each in started if each.pid is not None])
        if now.has_grown(last):
            report()
        last = now


def effort(processes: Sequence[BaseProcess]) -> Effort:
    """Of processes and all their children."""
    cpu_s, read, resident = 0.0, 0, 0
    for process in families(processes):
        with suppress(psutil.Error, OSError):
            times = process.cpu_times()
            cpu_s += times.user + times.system
            resident += process.memory_info().rss
            read += process.io_counters().read_chars
    return Effort(cpu_s, read, resident)


def families(processes: Iterable[BaseProcess | psutil.Process]) -> list[psutil.Process]:
    """These processes and all that they have started."""
    found: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            found += [parent, *parent.children(recursive=True)]
    return found
