"""How an engine that was loaded without room for an adapter makes way for one with it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.errors import LoadFailed
from app.core.model import Adapter, Model
from app.engine.fake.engine import FakeEngine
from tests.unit.garage import SPANNING, A, B, lease, managed, names, touch
from tests.unit.virtual_time import advance, settle, virtual


def adapted(name: str, rank: int = 8, base: Model = A) -> Model:
    adapter = Adapter(Path("/adapters") / name, name * 64, rank, 100)
    named = replace(base.spec.name, model=name)
    return replace(base, spec=replace(base.spec, name=named), adapter=adapter)


X, Y, LARGE = adapted("x"), adapted("y"), adapted("z", rank=32)


@virtual
async def test_an_idle_engine_is_loaded_anew_once_for_the_first_adapter() -> None:
    async with managed() as (manager, garage):
        plain = await touch(manager, A)
        garage.adapter_rank = 8
        assert not manager.ready(X)
        first, second = await asyncio.gather(touch(manager, X), touch(manager, Y))
        assert garage.log == ["start a", "close a", "closed a", "start a"]
        assert first.engine is second.engine is (await touch(manager, A)).engine
        assert first.engine is not plain.engine
        assert names(manager.loaded()) == ["a"]
        assert (manager.ready(A), manager.ready(X), manager.ready(LARGE)) == (True, True, False)
        assert ("unloaded", "a:latest", "reloaded") in garage.observed.events


@virtual
async def test_no_request_is_cut_and_those_that_come_wait() -> None:
    async with managed() as (manager, garage):
        async with lease(manager, A) as held:
            garage.adapter_rank = 8
            waiters = [asyncio.create_task(touch(manager, model)) for model in (X, A, B)]
            await settle()
            assert waiters[2].done(), "another model's load does not wait for it"
            assert not any(waiter.done() for waiter in waiters[:2])
            assert garage.log == ["start a", "start b"]
            assert not garage.engines[0].closed
            assert sorted(names(manager.loaded())) == ["a", "b"], "what still runs is told of"
        leases = await asyncio.gather(*waiters)
        assert garage.log == ["start a", "start b", "close a", "closed a", "start a"]
        assert leases[0].engine is leases[1].engine is not held.engine


@virtual
async def test_a_larger_rank_loads_again_and_a_smaller_one_does_not() -> None:
    async with managed() as (manager, garage):
        for wanted in (X, LARGE, X, A):
            garage.adapter_rank = max(garage.adapter_rank, wanted.adapter.rank if wanted.adapter else 0)
            await touch(manager, wanted)
        assert [line for line in garage.log if line.startswith("start")] == ["start x", "start x"]


@virtual
async def test_an_adapter_that_comes_while_its_base_loads() -> None:
    async with managed() as (manager, garage):
        garage.may_start.clear()
        base, late = asyncio.create_task(touch(manager, A)), asyncio.create_task(touch(manager, X))
        await settle()
        garage.adapter_rank = 8
        garage.may_start.set()
        assert (await base).engine is garage.engines[0]
        assert (await late).engine is garage.engines[1]
        assert garage.log == ["start a", "close a", "closed a", "start a"]


@virtual
async def test_a_base_that_is_loaded_knowing_the_adapter_is_loaded_once() -> None:
    async with managed() as (manager, garage):
        garage.adapter_rank = 8
        assert (await touch(manager, A)).engine is (await touch(manager, X)).engine
        assert garage.log == ["start a"]


@virtual
async def test_the_keep_alive_goes_with_it() -> None:
    async with managed(keep_alive_s=300) as (manager, garage):
        await touch(manager, A, keep_alive_s=1000)
        garage.adapter_rank = 8
        await touch(manager, X)
        await advance(500)
        assert garage.alive == ["a"]
        await advance(1000)
        assert garage.alive == []


@virtual
async def test_an_engine_that_could_not_make_room_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_self: FakeEngine, adapter: Adapter | None) -> bool:
        if adapter is not None:
            raise LoadFailed("no room")
        return True

    async with managed() as (manager, garage):
        monkeypatch.setattr(FakeEngine, "takes", refuses)
        base = await touch(manager, A)
        for _ in range(2):
            with pytest.raises(LoadFailed, match="no room"):
                await touch(manager, X)
        assert not manager.ready(X)
        assert (await touch(manager, A)).engine is base.engine
        assert garage.log == ["start a"]


@virtual
async def test_engines_that_never_make_room_are_not_loaded_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(_self: FakeEngine, adapter: Adapter | None) -> bool:
        return adapter is None

    async with managed() as (manager, garage):
        monkeypatch.setattr(FakeEngine, "takes", lacks)
        with pytest.raises(LoadFailed, match="without room"):
            await touch(manager, X)
        assert len(garage.engines) <= 3


@virtual
async def test_one_that_dies_or_is_shut_down_while_it_is_left() -> None:
    async with managed() as (manager, garage):
        async with lease(manager, A):
            garage.adapter_rank = 8
            waiter = asyncio.create_task(touch(manager, X))
            await settle()
            assert garage.log == ["start a"]
            garage.engines[0].die()
            await waiter
            assert garage.log == ["start a", "close a", "closed a", "start a"]
        async with lease(manager, A):
            other = asyncio.create_task(touch(manager, LARGE))
            await settle()
            await manager.close()
            assert garage.alive == []
            with pytest.raises(Exception, match="server"):
                await other


@virtual
async def test_a_room_that_is_full_waits_for_the_one_that_leaves() -> None:
    async with managed(max_loaded=1) as (manager, garage):
        async with lease(manager, A):
            garage.adapter_rank = 8
            waiters = [asyncio.create_task(touch(manager, wanted)) for wanted in (X, B)]
            await settle()
            assert garage.log == ["start a"]
        await asyncio.gather(*waiters)
        assert len(garage.alive) == 1


@virtual
async def test_what_no_model_has_is_forgotten() -> None:
    async with managed() as (manager, garage):
        await touch(manager, X)
        manager.forget([X, A, adapted("w", base=B)])
        assert garage.engines[0].forgotten == [X.adapter]


@virtual
async def test_an_engine_that_spans_nodes_is_not_loaded_anew_for_an_adapter() -> None:
    """Its ranks on other nodes would end with it, and have no room for the adapter at their next start."""
    spanning = replace(X, spec=SPANNING.spec, engine_key=SPANNING.engine_key)
    async with managed() as (manager, garage):
        await touch(manager, SPANNING)
        garage.adapter_rank = 8
        with pytest.raises(LoadFailed, match="without room for its adapter"):
            await touch(manager, spanning)
        await touch(manager, SPANNING)
        assert garage.log == ["start a"]
