"""Several workers over one manager: what they hold together, and what is left of one that dies."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from limits.aio.storage import MemoryStorage
from prometheus_client import CollectorRegistry, Counter, Gauge

from app.access.limiter import Limiter
from app.access.store import Store
from app.core.context import Caller, Limits, RequestContext
from app.core.errors import (
    ConcurrencyExceeded,
    Draining,
    EngineDied,
    ModelNotFound,
    Overloaded,
    TokenRateExceeded,
)
from app.core.model import Model
from app.engine.base import Engine
from app.engine.fake.engine import FakeEngine
from app.fronts.hub import EngineState, Hub
from app.fronts.metrics import merged
from app.fronts.peer import Peer
from app.fronts.remote import RemoteLimiter, RemoteManager
from app.runtime.entry import Lease
from app.runtime.manager import Manager
from tests.unit.garage import A, B

MOMENT_S = 0.05


class Shared(FakeEngine):
    """The manager's engine: what it was told of workers."""

    attachment = b"how to attach"
    served_name = "a:latest"
    told_at = 0.0

    def __init__(self, site: "Site") -> None:
        super().__init__(slots=site.slots)
        self._site = site
        self.abandoned: list[str] = []
        self.heard: dict[int, tuple[EngineState, int]] = {}
        self.is_closed = False

    async def abandon(self, request_ids: Sequence[str]) -> None:
        self.abandoned += request_ids

    def hear(self, worker: int, state: EngineState, requests: int) -> None:
        self.heard[worker] = (state, requests)

    async def close(self) -> None:
        await self._site.hub.closed(self)
        self.is_closed = True
        await super().close()


class Worker:
    """A worker, and its end of the sockets."""

    def __init__(self, end: socket.socket) -> None:
        self.engines: list[FakeEngine] = []
        self.remote = RemoteManager(self._attach, default_context=4096)
        self.peer = self.remote.peer = Peer(end, asks=self.remote.asks, tells=self.remote.tells)
        self.limiter = RemoteLimiter(self.remote)
        self.peer.open()

    async def _attach(self, number: int, attachment: bytes) -> Engine:
        assert attachment == Shared.attachment
        self.engines.append(FakeEngine())
        return self.engines[-1]

    def lease(self, name: str = "a", keep_alive_s: float | None = None) -> Any:
        model = self.remote.library.find(name)
        return self.remote.lease(model, keep_alive_s=keep_alive_s, num_ctx=None)


class Site:
    def __init__(self, slots: int = 0, **given: Any) -> None:
        self.slots = slots
        self.engines: list[Shared] = []
        chosen: dict[str, Any] = {
            "keep_alive_s": 300.0,
            "load_timeout_s": 9,
            "max_queue": 64,
        }
        self.manager = Manager(self._start, **chosen | given)
        self.hub = Hub(self.manager, Limiter(Store(MemoryStorage())))
        self.workers: list[Worker] = []
        self._serving: list[asyncio.Task[None]] = []

    async def _start(self, model: Model) -> Engine:
        self.engines.append(Shared(self))
        await self.hub.opened(self.engines[-1])
        return self.engines[-1]

    async def add(self) -> Worker:
        ours, its = socket.socketpair()
        worker = Worker(its)
        self.workers.append(worker)
        self._serving.append(asyncio.create_task(self.hub.run(len(self.workers), ours)))
        await worker.remote.serving.wait()
        return worker

    async def close(self) -> None:
        for worker in self.workers:
            worker.peer.close()
        await asyncio.gather(*self._serving)
        await self.manager.close()


@asynccontextmanager
async def site(count: int = 2, **given: Any) -> AsyncGenerator[Site, None]:
    made = Site(**given)
    await made.hub.publish([A, B])
    for _ in range(count):
        await made.add()
    try:
        yield made
    finally:
        await made.close()


async def test_a_lease_is_the_managers_and_the_engine_the_workers_own() -> None:
    async with site() as made:
        first, second = made.workers
        async with first.lease() as lease, second.lease() as other:
            assert made.manager.in_use == 2
            assert (lease.engine, other.engine) == (first.engines[0], second.engines[0])
            assert (lease.context_length, len(made.engines)) == (4096, 1)
        await asyncio.sleep(MOMENT_S)
        assert made.manager.in_use == 0
        assert [str(row.model.name) for row in made.manager.loaded()] == ["a:latest"]


async def test_an_engine_is_unloaded_once_no_worker_uses_it() -> None:
    async with site() as made:
        first, second = made.workers
        async with first.lease():
            async with second.lease(keep_alive_s=0):
                pass
            await asyncio.sleep(MOMENT_S)
            assert not made.engines[0].is_closed
        await asyncio.sleep(MOMENT_S)
        assert made.engines[0].is_closed
        assert not first.remote.attached
        assert not second.remote.attached


async def test_what_a_worker_that_dies_had_is_given_back_and_ended() -> None:
    async with site() as made:
        first, second = made.workers
        async with second.lease():
            await first.lease().__aenter__()
            for name in ("one", "two", "three"):
                first.peer.tell("began", 2, name)  # 1 is the number of a model
            number = next(iter(first.remote.attached))
            for name in ("one", "two", "three"):
                first.peer.tell("began", number, name)
            await asyncio.sleep(MOMENT_S)
            assert made.engines[0].heard[1] == (EngineState(), 3)  # as they begin, for the watchdog
            first.peer.tell("state", number, EngineState(5), ["two"])
            await asyncio.sleep(MOMENT_S)
            assert made.engines[0].heard[1] == (EngineState(5), 2)
            first.peer.close()
            await asyncio.sleep(MOMENT_S)
            assert made.manager.in_use == 1
            assert made.engines[0].abandoned == ["one", "three"]
            assert made.engines[0].heard[1] == (EngineState(), 0)
            assert made.hub.serving == 1
            third = await made.add()
            async with third.lease() as lease:
                assert lease.engine is third.engines[0]


async def test_places_of_an_engine_are_those_of_all_workers_together() -> None:
    async with site(slots=1) as made:
        first, second = made.workers
        async with AsyncExitStack() as held:
            leases: list[Lease] = [await held.enter_async_context(each.lease()) for each in made.workers]
            began: list[str] = []

            async def run(name: str, lease: Lease) -> None:
                async with lease.turns.turn("", 0, 10) as turn:
                    began.append(name)
                    await asyncio.sleep(2 * MOMENT_S)
                    assert turn.silent
                    turn.speaks()
                    assert not turn.silent

            one = asyncio.create_task(run("first", leases[0]))
            await asyncio.sleep(MOMENT_S)
            two = asyncio.create_task(run("second", leases[1]))
            await asyncio.sleep(MOMENT_S / 2)
            assert began == ["first"]
            assert made.manager.queued()[0][1] == 1
            await asyncio.gather(one, two)
            assert began == ["first", "second"]
        assert (first.peer.ended.is_set(), second.peer.ended.is_set()) == (False, False)


async def test_the_queue_is_bounded_for_all_workers_together() -> None:
    async with site(slots=1, max_queue=1) as made:
        first, second = made.workers
        async with first.lease(), second.lease():
            with pytest.raises(Overloaded, match="server busy"):
                await first.lease().__aenter__()


def limited(**limits: int) -> RequestContext:
    return RequestContext(caller=Caller(key_id="k", limits=Limits(**limits)))


async def test_a_key_may_have_as_many_requests_at_once_as_with_one_process() -> None:
    async with site() as made:
        first, second = made.workers
        async with first.limiter.admit(limited(concurrent_requests=1)):
            with pytest.raises(ConcurrencyExceeded, match="may have 1 requests at once"):
                await second.limiter.admit(limited(concurrent_requests=1)).__aenter__()
        await asyncio.sleep(MOMENT_S)
        async with second.limiter.admit(limited(concurrent_requests=1)):
            pass


async def test_the_tokens_of_a_key_are_counted_over_all_workers() -> None:
    async with site() as made:
        first, second = made.workers
        ctx = limited(tokens_per_minute=100)
        async with first.limiter.admit(ctx):
            room, settle = await ctx.reserve(30, 60, exact=True)
            assert room == 60
            other = limited(tokens_per_minute=100)
            async with second.limiter.admit(other):
                with pytest.raises(TokenRateExceeded):
                    await other.reserve(30, 60, exact=True)
            await settle(40)
            ctx.work.prompt_tokens, ctx.work.output_tokens = 30, 10
        await asyncio.sleep(MOMENT_S)
        last = limited(tokens_per_minute=100)
        async with second.limiter.admit(last):
            assert (await last.reserve(10, 50, exact=True))[0] == 50
            with pytest.raises(TokenRateExceeded):
                await last.reserve(1, 10, exact=True)


async def test_a_change_of_the_models_is_known_to_every_worker_when_it_is_told() -> None:
    async with site() as made:
        first, second = made.workers
        kept, gone = first.remote.library.find("a"), first.remote.library.find("b")
        changed = replace(A, parent="another")
        await made.hub.publish([changed])
        for worker in (first, second):
            assert worker.remote.library.find("a").parent == "another"
            with pytest.raises(ModelNotFound):
                worker.remote.library.find("b")
        # A request that has found its model goes on with it.
        for model in (kept, gone):
            async with first.remote.lease(model, keep_alive_s=None, num_ctx=None):
                pass
        assert len(made.engines) == 2


async def test_a_model_that_did_not_change_stays_the_same_in_a_worker() -> None:
    async with site() as made:
        found = made.workers[0].remote.library.find("a")
        await made.hub.publish([A])
        await made.hub.publish([A, B])
        assert made.workers[0].remote.library.find("a") is found


async def test_an_unload_by_one_worker_is_for_all() -> None:
    async with site() as made:
        first, second = made.workers
        async with first.lease():
            pass
        second.remote.unload(second.remote.library.find("a"))
        await asyncio.sleep(MOMENT_S)
        assert made.engines[0].is_closed


async def test_a_lease_of_an_engine_that_has_just_died_says_so() -> None:
    async with site() as made:
        first, _ = made.workers
        async with first.lease():
            pass
        await made.hub.closed(made.engines[0])
        with pytest.raises(EngineDied):
            await first.lease().__aenter__()


async def test_without_a_manager_nothing_can_be_had() -> None:
    async with site() as made:
        worker = made.workers[0]
        worker.peer.close()
        with pytest.raises(Draining):
            await worker.lease().__aenter__()


def test_each_series_is_of_a_front_end_but_the_gauges_of_engines() -> None:
    def told(count: int, running: int) -> CollectorRegistry:
        registry = CollectorRegistry()
        Counter("asked", "Requests.", registry=registry).inc(count)
        gauge = Gauge("vllm:num_requests_running", "Running.", ["model_name"], registry=registry)
        gauge.labels("a").set(running)
        return registry

    families = merged([(1, told(3, 5).collect(), {"a": 10.0}), (2, told(4, 0).collect(), {"a": 11.0})])
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    assert samples == {
        ("asked_total", "1"): 3.0,
        ("asked_total", "2"): 4.0,
        ("vllm:num_requests_running", "a"): 0.0,
    }
