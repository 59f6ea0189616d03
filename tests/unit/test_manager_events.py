"""How the manager makes room and survives deaths; and that no order of events leaks anything."""

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import AppError, EngineDied
from app.core.model import Model
from app.core.request import Sampling
from app.engine.base import Run
from app.runtime.manager import Manager
from tests.answers import deltas_of
from tests.unit.garage import A2, A, B, C, Garage, TrackedEngine, lease, managed, names, seconds_left, touch
from tests.unit.virtual_time import advance, now, settle, virtual

BUSY = "server busy, please try again.  maximum pending requests exceeded"


# Eviction.


@virtual
async def test_the_idle_engine_with_the_shortest_keep_alive_makes_room() -> None:
    async with managed(max_loaded=2) as (manager, garage):
        await touch(manager, A, keep_alive_s=math.inf)
        await touch(manager, B)
        await touch(manager, C)
        assert garage.log[2:] == ["close b", "closed b", "start c"]
        assert names(manager.loaded()) == ["a", "c"]


@virtual
async def test_busy_engines_are_waited_for_in_order() -> None:
    async with managed(max_loaded=1) as (manager, garage):
        order: list[str] = []

        async def use(wanted: Model) -> None:
            async with lease(manager, wanted):
                order.append(wanted.name.model)
                await advance(10)

        async with lease(manager, A):
            requests = [asyncio.create_task(use(each)) for each in (B, C)]
            await advance(50)
            assert (garage.alive, manager.waiting) == (["a"], 2)
            await touch(manager, A)
        await asyncio.gather(*requests)
        assert order == ["b", "c"]
        assert now() == pytest.approx(70)


@virtual
async def test_the_queue_moves_up_when_its_head_goes_away() -> None:
    async with managed(max_loaded=1) as (manager, garage):
        async with lease(manager, A):
            head, second = asyncio.create_task(touch(manager, B)), asyncio.create_task(touch(manager, C))
            await settle()
            head.cancel()
            await settle()
            assert (head.cancelled(), manager.waiting) == (True, 1)
        await second
        assert (garage.alive, "start b" in garage.log) == (["c"], False)


# Death.


@virtual
async def test_requests_under_way_fail_in_the_engine_when_it_dies() -> None:
    async with managed() as (manager, garage):
        gate = asyncio.Event()

        async def request() -> None:
            async with lease(manager, A) as held:
                prompt = await held.engine.tokenize("hi")
                async for _ in deltas_of(held.engine, prompt, Run(Sampling(), max_tokens=5)):
                    pass

        await touch(manager, A)
        garage.engines[0].gate = gate
        under_way = asyncio.create_task(request())
        await settle()
        garage.engines[0].die()
        with pytest.raises(EngineDied):
            await under_way
        async with lease(manager, A) as held:
            assert held.engine is garage.engines[1]


@virtual
async def test_a_death_frees_its_place() -> None:
    async with managed(max_loaded=1) as (manager, garage), lease(manager, A):
        waiter = asyncio.create_task(touch(manager, B))
        await settle()
        garage.engines[0].die()
        assert (await waiter).engine is garage.engines[1]


@virtual
async def test_a_death_while_it_waits_to_be_closed_is_no_failure() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        garage.may_start.clear()
        waiter = asyncio.create_task(touch(manager, B))
        await settle()
        manager.unload(A)
        garage.engines[0].die()
        await settle()
        assert manager.down == []
        garage.may_start.set()
        await waiter


# Any order of events.

MODELS = (A, A2, B, C)
index = st.integers(0, 3)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), index, st.sampled_from([None, 0.0, 5.0, math.inf])),
        st.tuples(st.just("end"), st.integers(0, 9), st.just(None)),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.just(None)),
        st.tuples(st.just("unload"), index, st.just(None)),
        st.tuples(st.just("die"), index, st.just(None)),
        st.tuples(st.just("fail"), st.just(0), st.just(None)),
        st.tuples(st.sampled_from(["hold starts", "free starts"]), st.just(0), st.just(None)),
        st.tuples(st.sampled_from(["hold closes", "free closes"]), st.just(0), st.just(None)),
        st.tuples(st.just("pass"), st.just(0), st.sampled_from([0.0, 1e-6, 3.0, 400.0])),
    ),
    min_size=5,
    max_size=50,
)


class Life:
    """Requests that come and go as the steps say."""

    def __init__(self, manager: Manager, garage: Garage) -> None:
        self._manager = manager
        self._garage = garage
        self.errors: set[str] = set()
        self._requests: list[tuple[asyncio.Task[None], asyncio.Event]] = []

    async def take(self, kind: str, number: int, value: float | None) -> None:
        match kind:
            case "ask":
                end = asyncio.Event()
                request = self._request(MODELS[number], value, end)
                self._requests.append((asyncio.create_task(request), end))
            case "end" | "cancel" if number < len(self._requests):
                task, end = self._requests.pop(number)
                end.set() if kind == "end" else task.cancel()
            case "unload":
                self._manager.unload(MODELS[number])
            case "die" if number < len(self._garage.engines):
                self._garage.engines[-1 - number].die()
            case "pass":
                await asyncio.sleep(value or 0)
            case _:
                self._garage_step(kind)

    def _garage_step(self, kind: str) -> None:
        match kind:
            case "fail":
                self._garage.errors.append(OSError("broken"))
            case "hold starts":
                self._garage.may_start.clear()
            case "free starts":
                self._garage.may_start.set()
            case "hold closes":
                self._garage.may_close.clear()
            case "free closes":
                self._garage.may_close.set()
            case _:
                pass

    async def _request(self, wanted: Model, keep_alive_s: float | None, end: asyncio.Event) -> None:
        try:
            async with lease(self._manager, wanted, keep_alive_s=keep_alive_s) as held:
                assert isinstance(held.engine, TrackedEngine)
                assert held.engine.key == wanted.engine_key
                await end.wait()
        except AppError as error:
            self.errors.add(str(error))

    async def end_all(self) -> None:
        self._garage.may_start.set()
        self._garage.may_close.set()
        for _, end in self._requests:
            end.set()
        await self._manager.wait_idle()


@given(steps, st.integers(0, 2))
@settings(max_examples=300, deadline=None)
def test_no_order_of_events_leaks_or_breaks_a_limit(
    taken: list[tuple[str, int, float | None]], max_loaded: int
) -> None:
    @virtual
    async def play() -> None:
        async with managed(max_loaded=max_loaded, max_queue=3) as (manager, garage):
            life = Life(manager, garage)
            for step in taken:
                await life.take(*step)
                await asyncio.sleep(0)
                assert len(garage.alive) == len(set(garage.alive))
                assert len(garage.alive) <= (max_loaded or 3)
                assert manager.waiting <= 3
            await life.end_all()
            assert life.errors <= {"broken", BUSY}
            await advance(400)
            assert (manager.in_use, manager.waiting) == (0, 0)
            kept = {row.model.engine_key for row in manager.loaded() if seconds_left(row) > 1e6}
            assert set(garage.alive) == kept

    play()
