"""Clients that ask one thing after another until they are told to stop."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from chaos.answers import Outcome
from chaos.client import ask, leave
from chaos.requests import Judge, Mix
from chaos.site import Site
from chaos.tally import Tally

DEADLINE_S = 90.0
"""No request may take longer, the load of a model included."""


class Traffic:
    """`clients` at once, each pausing for up to twice `pause_s` between its requests."""

    def __init__(self, site: Site, mix: Mix, *, clients: int, pause_s: float, seed: int) -> None:
        self.tally = Tally()
        self._site = site
        self._mix = mix
        self._clients = clients
        self._pause_s = pause_s
        self._dice = random.Random(seed)
        self._judge = Judge()
        self._ending = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Traffic while the block runs; its end waits for every answer."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._client())
            try:
                yield
            finally:
                self._ending.set()
        self._ending.clear()

    async def _client(self) -> None:
        while not self._ending.is_set():
            await self._once()
            if self._pause_s:
                await asyncio.sleep(self._dice.uniform(0, 2 * self._pause_s))

    async def _once(self) -> None:
        request = self._mix.draw()
        if request.leaves is None:
            answer = await ask(self._site.client, request, DEADLINE_S)
        else:
            answer = await leave(self._site.url, request, self._dice, DEADLINE_S)
        verdict = self._judge.verdict(request, answer)
        self.tally.add(request, answer, verdict)
        if verdict.outcome is Outcome.LOST:
            print(f"lost: {request.kind}: {verdict.reason}", flush=True)
