"""Engines that share memory: what goes for what, who waits, and that nobody waits for ever."""

import asyncio
import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from app.core.device import Device, Need
from app.core.errors import LoadFailed
from app.core.model import Model
from app.runtime.ledger import Ledger
from tests.unit.garage import A, B, C, Garage, lease, managed, names, touch
from tests.unit.virtual_time import now, settle, virtual


class Shelf:
    """A device of 100 bytes; the engines of `garage` that are alive have theirs of it."""

    tells = is_current = True
    settles_s = 0.0

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes
        self.garage: Garage | None = None
        self.kept: dict[str, int] = {}
        self.slow: tuple[int, float] = (0, 0.0)
        """What the driver shows until this time."""

    def devices(self) -> Sequence[Device]:
        shown, until = self.slow
        if until > now():
            return (Device(0, 100, shown),)
        alive = self.garage.alive if self.garage else []
        return (Device(0, 100, 100 - sum(self.sizes[key] for key in alive)),)

    def need(self, model: Model) -> Need:
        size = self.kept.get(model.engine_key, self.sizes[model.engine_key])
        return Need(size, size)

    def measured(self, model: Model, bytes_each: int, rank: int) -> None:
        self.kept[model.engine_key] = bytes_each

    async def fresh(self) -> bool:
        return True

    def spare_host_bytes(self) -> int:
        return 0


@virtual
async def test_an_idle_engine_goes_for_one_that_would_not_fit_beside_it() -> None:
    shelf = Shelf(a=60, b=60, c=30)
    async with managed(ledger=Ledger(shelf)) as (manager, garage):
        shelf.garage = garage
        await touch(manager, A)
        await touch(manager, C)
        assert sorted(names(manager.loaded())) == ["a", "c"]
        await touch(manager, B)
        assert sorted(names(manager.loaded())) == ["b", "c"]
        assert ("unloaded", "a:latest", "evicted") in garage.observed.events


@virtual
async def test_what_the_server_takes_while_an_engine_loads_is_not_the_engines() -> None:
    """Of 60 bytes that were free before the first load, 15 have gone to what the server imports for it."""
    shelf = Shelf(a=60)
    async with managed(ledger=Ledger(shelf)) as (manager, garage):
        shelf.garage, garage.own_bytes = garage, 45
        await touch(manager, A)
        assert shelf.kept == {"a": 45}


class Host(Shelf):
    """Memory in which others give back what an engine takes."""

    def devices(self) -> Sequence[Device]:
        return (Device(0, 100, 100),)

    def need(self, model: Model) -> Need:
        return replace(super().need(model), in_processes=True)


@virtual
async def test_of_the_hosts_memory_an_engine_has_what_its_processes_have() -> None:
    """Whatever is free afterwards: with a budget of 100 a second one of 60 was loaded beside the first."""
    shelf = Host(a=60, b=60)
    async with managed(ledger=Ledger(shelf, budget_bytes=100)) as (manager, garage):
        shelf.garage, garage.own_bytes = garage, 55
        await touch(manager, A)
        assert shelf.kept == {"a": 55}
        await touch(manager, B)
        assert names(manager.loaded()) == ["b"]


@virtual
async def test_what_could_never_fit_is_refused_with_the_numbers_and_evicts_nothing() -> None:
    shelf = Shelf(a=60, b=101)
    async with managed(ledger=Ledger(shelf)) as (manager, garage):
        shelf.garage = garage
        await touch(manager, A)
        with pytest.raises(LoadFailed, match=r"^model b:latest is too large: it needs 0\.0 GiB on"):
            await touch(manager, B)
        assert names(manager.loaded()) == ["a"]
        assert ("load failed", "b:latest") in garage.observed.events


@virtual
async def test_a_model_that_is_never_idle_makes_room_once_another_has_waited_for_long_enough() -> None:
    shelf = Shelf(a=60, b=60)
    async with managed(ledger=Ledger(shelf), patience_s=30) as (manager, garage):
        shelf.garage = garage
        served: list[tuple[str, float]] = []

        async def use(model: Model, begins_s: float, ends_s: float) -> None:
            await asyncio.sleep(begins_s)
            async with lease(manager, model):
                served.append((model.name.model, now()))
                await asyncio.sleep(max(0.0, ends_s - begins_s))

        async with asyncio.TaskGroup() as group:
            for begin in range(0, 100, 5):  # two at a time, so that a is never idle
                group.create_task(use(A, begin, begin + 10))
            group.create_task(use(B, 1, 2))
        (when,) = [at for model, at in served if model == "b"]
        assert 31 <= when <= 42  # the patience, and the longest use of a that had begun
        starts = [line for line in garage.log if line.startswith("start")]
        assert starts == ["start a", "start b", "start a"]
        assert len(served) == 21


@virtual
async def test_without_a_limit_to_its_patience_a_model_waits_until_the_other_is_idle() -> None:
    shelf = Shelf(a=60, b=60)
    async with managed(ledger=Ledger(shelf), patience_s=math.inf) as (manager, garage):
        shelf.garage = garage
        async with AsyncExitStack() as held:
            await held.enter_async_context(lease(manager, A))
            waiting = asyncio.create_task(touch(manager, B))
            await asyncio.sleep(1000)
            assert not waiting.done()
            await touch(manager, A)
        await waiting


@virtual
async def test_a_leaving_engine_answers_those_that_it_has_and_takes_nobody_more() -> None:
    shelf = Shelf(a=60, b=60)
    async with managed(ledger=Ledger(shelf), patience_s=30) as (manager, garage):
        shelf.garage = garage
        async with lease(manager, A) as first:
            waiting = asyncio.create_task(touch(manager, B))
            await asyncio.sleep(31)
            assert not waiting.done()
            assert names(manager.loaded()) == ["a"]  # it is there as long as it answers
            late = asyncio.create_task(touch(manager, A))
            await asyncio.sleep(1)
            assert not late.done()
            assert first.engine in garage.engines
        await waiting
        second = await late
        assert second.engine is not first.engine


@virtual
async def test_a_small_model_is_loaded_while_a_large_one_waits_for_its_turn() -> None:
    shelf = Shelf(a=60, b=60, c=30)
    async with managed(ledger=Ledger(shelf), patience_s=30) as (manager, garage):
        shelf.garage = garage
        async with lease(manager, A):
            waiting = asyncio.create_task(touch(manager, B))
            await asyncio.sleep(1)
            await touch(manager, C)
            assert not waiting.done()
        await waiting


@virtual
async def test_the_death_of_a_leaving_engine_brings_nothing_back() -> None:
    shelf = Shelf(a=60, b=60)
    async with managed(ledger=Ledger(shelf), patience_s=30) as (manager, garage):
        shelf.garage = garage
        async with lease(manager, A):
            waiting = asyncio.create_task(touch(manager, B))
            await asyncio.sleep(31)
            garage.engines[0].die()
            await waiting
            assert names(manager.loaded()) == ["b"]
        await asyncio.sleep(100)
        assert names(manager.loaded()) == ["b"]


@virtual
async def test_the_next_load_waits_until_the_driver_shows_the_memory() -> None:
    shelf = Shelf(a=60, b=60)
    async with managed(ledger=Ledger(shelf)) as (manager, garage):
        shelf.garage = garage
        await touch(manager, A)
        shelf.settles_s = 60.0
        begun = now()
        shelf.slow = 40, begun + 2
        await touch(manager, B)
        assert 1.9 <= now() - begun <= 2.2


@virtual
async def test_an_unload_by_hand_while_another_waits_lets_it_in() -> None:
    shelf = Shelf(a=60, b=60)
    async with managed(ledger=Ledger(shelf), patience_s=30) as (manager, garage):
        shelf.garage = garage
        async with lease(manager, A):
            waiting = asyncio.create_task(touch(manager, B))
            await asyncio.sleep(1)
            manager.unload(A)
        await waiting
        assert names(manager.loaded()) == ["b"]


@virtual
async def test_the_next_load_waits_until_one_that_failed_has_given_its_memory_back() -> None:
    shelf = Shelf(a=60, b=60)
    async with managed(ledger=Ledger(shelf)) as (manager, garage):
        shelf.garage = garage
        garage.errors.append(RuntimeError("no memory"))
        shelf.settles_s = 60.0
        garage.may_start.clear()
        waiting = asyncio.create_task(touch(manager, A))
        other = asyncio.create_task(touch(manager, B))
        await settle()
        begun = now()
        shelf.slow = 30, begun + 1
        garage.may_start.set()
        with pytest.raises(LoadFailed, match="no memory"):
            await waiting
        await other
        assert 0.9 <= now() - begun <= 1.2
