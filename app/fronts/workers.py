"""The worker processes of a server: started, started again after a death, and told to end."""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from prometheus_client import Metric

from app.access.limiter import Limiter
from app.catalogue.library import Library
from app.engine.base import Engine
from app.fronts.channel import LENGTH
from app.fronts.hub import Hub, SharedEngine
from app.fronts.metrics import merged
from app.runtime.manager import Manager
from app.telemetry import instruments
from app.telemetry.metrics import Metrics

_AGAIN_S = (0.1, 10.0)
"""Shortest and longest time until a worker that has died is started again."""
_DEATHS, _WINDOW_S = 8, 120.0
_END_S = 5.0
_log = logging.getLogger("caravan")


class Workers:
    """`count` workers, each started by `command` with its number and the descriptors of its channel and of
    `life`, and told `begin` first. This process serves HTTP to them at the Unix socket `path`.

    They end when the other end of `life`, which this process alone has, is closed. `on_hopeless` is told why
    no worker can be had.
    """

    def __init__(
        self,
        count: int,
        command: Sequence[str],
        life: int,
        begin: bytes,
        path: str,
        on_hopeless: Callable[[str], None],
    ) -> None:
        self.count = count
        self._command, self._life, self._begin = command, life, begin
        self.path = path
        self._hopeless = on_hopeless
        self._hub: Hub | None = None
        self._running: dict[int, Process] = {}
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
        self._stopping = self._hurried = False
        self._publish: Callable[[], Awaitable[None]] | None = None

    @property
    def hub(self) -> Hub:
        assert self._hub is not None
        return self._hub

    @property
    def running(self) -> int:
        """Workers that have not ended."""
        return len(self._running)

    def join(self, manager: Manager, limiter: Limiter | None, library: Library, metrics: Metrics) -> None:
        """Serve these to the workers."""
        self._hub = hub = Hub(manager, limiter)

        async def publish() -> None:
            await hub.publish(library.all())

        self._publish = library.on_change = publish
        metrics.watch(instruments.FRONT_ENDS, lambda: [(hub.serving, {})])

    async def run(self) -> None:
        """Keep the workers running until this is cancelled or they are told to stop."""
        if self._publish is not None:
            await self._publish()
        async with asyncio.TaskGroup() as group:
            for index in range(1, self.count + 1):
                group.create_task(self._keep(index))

    async def opened(self, engine: SharedEngine) -> None:
        await self.hub.opened(engine)

    async def ended(self, engine: SharedEngine) -> None:
        await self.hub.closed(engine)

    async def families(self, engines: Sequence[Engine]) -> list[Metric]:
        """The metrics of all workers, and as those of number 0 what this process counts of its engines."""
        registries = [each.registry for each in engines if each.registry is not None]
        own = [family for registry in registries for family in registry.collect()]
        return merged([(0, own, self.hub.told_at), *await self.hub.metrics()])

    def stop(self, *, now: bool = False) -> None:
        """Have the workers end what they have and then themselves; `now`: at once."""
        if not self._stopping or (now and not self._hurried):
            self.hub.stop(now=now)
        self._stopping, self._hurried = True, self._hurried or now

    def kill(self) -> None:
        """End those that have not ended."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    async def _keep(self, index: int) -> None:
        again_s = _AGAIN_S[0]
        while not self._stopping:
            began = time.monotonic()
            status = await self._run_one(index)
            if self._stopping:
                return
            _log.error("front end %d has ended with status %d and is started again", index, status)
            self._deaths.append(time.monotonic())
            if len(self._deaths) == _DEATHS and self._deaths[-1] - self._deaths[0] < _WINDOW_S:
                self._hopeless("gave up on the front ends: they keep dying")
                return
            again_s = _AGAIN_S[0] if time.monotonic() - began > _WINDOW_S else min(2 * again_s, _AGAIN_S[1])
            await asyncio.sleep(again_s)

    async def _run_one(self, index: int) -> int:
        """One worker's life; its exit status."""
        ours, its = socket.socketpair()
        with its:
            given = (index, its.fileno(), self._life)
            process = await asyncio.create_subprocess_exec(
                *self._command, *map(str, given), pass_fds=given[1:], env=_environment()
            )
        ours.sendall(LENGTH.pack(len(self._begin)) + self._begin)
        self._running[index] = process
        try:
            await self.hub.run(index, ours)
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    return await process.wait()
            process.kill()
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            del self._running[index]


def _environment() -> dict[str, str]:
    """As this process', and with the same modules, wherever it was started."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # noqa: TID251
