"""Engines that are put to sleep in place of being closed: when, what wakes them, and what ends them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from app.core.device import Device, Need
from app.core.errors import LoadFailed
from app.core.model import Adapter, Model
from app.runtime.ledger import Ledger
from app.runtime.manager import Manager
from tests.unit.garage import A2, A, B, C, Garage, lease, managed, model, names, touch
from tests.unit.virtual_time import advance, settle, virtual

KEPT = 5
D = model("d")
A_NAME, B_NAME = str(A.name), str(B.name)
ADAPTED = replace(A2, adapter=Adapter(Path("/a"), "a" * 64, 8, 1))


class Shelf:
    """Devices of 100 bytes; an engine that is awake takes 60 of each and 30 of the host to sleep."""

    tells = is_current = True
    settles_s = 0.0

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.garage: Garage | None = None
        self.silent = False
        self.only: dict[str, tuple[int, ...]] = {}

    def devices(self) -> Sequence[Device]:
        if self.silent:
            return ()
        engines = self.garage.engines if self.garage else []
        taken = dict.fromkeys(range(self.count), 0)
        for each in engines:
            if not each.closed:
                taken[each.device] += KEPT if each.asleep else 60
        return [Device(index, 100, 100 - count) for index, count in taken.items()]

    async def fresh(self) -> bool:
        return True

    def need(self, model: Model) -> Need:
        only = self.only.get(model.engine_key, ())
        return Need(60, 60, only=only, host=30, asleep=KEPT)

    def measured(self, model: Model, bytes_each: int, rank: int) -> None: ...

    def spare_host_bytes(self) -> int:
        return 1000


def device_of(ledger: Ledger, key: str) -> int:
    placement = ledger.placement(model(key))
    assert placement is not None
    return placement.devices[0]


@asynccontextmanager
async def sleeping(
    budget: int = 100,
    keep_alive_s: float = 300,
    count: int = 1,
    heir: Callable[[Model], Model | None] = lambda model: model,
    only: dict[str, tuple[int, ...]] | None = None,
) -> AsyncGenerator[tuple[Manager, Garage]]:
    shelf = Shelf(count)
    shelf.only = only or {}
    ledger = Ledger(shelf, sleep_bytes=budget)
    async with managed(ledger=ledger, keep_alive_s=keep_alive_s, heir=heir) as (manager, garage):
        garage.can_sleep, shelf.garage = True, garage
        garage.device_of = partial(device_of, ledger)
        yield manager, garage


def asleep(manager: Manager) -> list[str]:
    return [model.name.model for model in manager.asleep()]


@virtual
async def test_what_goes_for_another_sleeps_and_the_next_request_wakes_it() -> None:
    async with sleeping() as (manager, garage):
        first = (await touch(manager, A)).engine
        await touch(manager, B)
        assert (names(manager.loaded()), asleep(manager)) == (["b"], ["a"])
        assert not manager.ready(A)
        again = await touch(manager, A)
        assert again.engine is first
        assert again.load_ns >= 1
        assert (names(manager.loaded()), asleep(manager)) == (["a"], ["b"])
        assert garage.log == ["start a", "sleep a", "start b", "sleep b", "wake a"]
        assert garage.observed.events == [
            ("loaded", A_NAME),
            ("slept", A_NAME, "evicted"),
            ("loaded", B_NAME),
            ("slept", B_NAME, "evicted"),
            ("woken", A_NAME),
        ]


@virtual
async def test_an_idle_engine_sleeps_at_the_end_of_its_keep_alive() -> None:
    async with sleeping(keep_alive_s=10) as (manager, garage):
        await touch(manager, A)
        await advance(11)
        assert (names(manager.loaded()), asleep(manager)) == ([], ["a"])
        await advance(10_000)
        assert asleep(manager) == ["a"]
        await touch(manager, A)
        assert garage.log == ["start a", "sleep a", "wake a"]


@virtual
async def test_who_asks_for_the_memory_back_gets_all_of_it() -> None:
    async with sleeping(keep_alive_s=10) as (manager, garage):
        await touch(manager, A, keep_alive_s=0)
        await settle()
        assert garage.log == ["start a", "close a", "closed a"]
        await touch(manager, B)
        manager.unload(B)
        await settle()
        assert garage.alive == []
        await touch(manager, C)
        await advance(11)
        assert asleep(manager) == ["c"]
        manager.unload(C)
        await settle()
        assert (garage.alive, asleep(manager)) == ([], [])
        assert garage.observed.events[-1] == ("unloaded", str(C.name), "asked")


@virtual
async def test_without_a_budget_or_an_engine_that_can_nothing_sleeps() -> None:
    async with sleeping(budget=29) as (manager, garage):
        await touch(manager, A)
        await touch(manager, B)
        assert garage.alive == ["b"]
    async with sleeping() as (manager, garage):
        garage.can_sleep = False
        await touch(manager, A)
        await touch(manager, B)
        assert garage.alive == ["b"]


@virtual
async def test_the_engine_used_longest_ago_is_closed_when_the_host_has_no_room_for_another() -> None:
    async with sleeping(budget=70) as (manager, garage):
        for each in (A, B, C, D):
            await touch(manager, each)
            await advance(1)
        assert asleep(manager) == ["b", "c"]
        assert manager.asleep_bytes() == (70, 60)
        assert garage.log[-4:] == ["close a", "closed a", "sleep c", "start d"]


@virtual
async def test_host_memory_stays_with_an_engine_that_has_slept() -> None:
    """torch keeps what it has pinned: a budget that counted only what is asleep would be exceeded."""
    async with sleeping(budget=59) as (manager, garage):
        await touch(manager, A)
        await touch(manager, B)
        await touch(manager, A)  # a has 30 of the host though it is awake, so that b finds none
        assert manager.asleep_bytes() == (59, 30)
        assert garage.log[-3:] == ["close b", "closed b", "wake a"]
        await touch(manager, B)
        assert garage.log[-2:] == ["sleep a", "start b"]


@virtual
async def test_an_engine_that_dies_asleep_is_closed_and_not_loaded_again() -> None:
    async with sleeping() as (manager, garage):
        await touch(manager, A)
        await touch(manager, B)
        garage.engines[0].die()
        await advance(100)
        assert (garage.alive, asleep(manager), manager.down) == (["b"], [], [])
        assert garage.observed.events[-2:] == [("died", A_NAME), ("unloaded", A_NAME, "died")]
        await touch(manager, A)
        assert garage.log.count("start a") == 2


@virtual
async def test_one_that_cannot_be_woken_is_closed_and_loaded_anew_for_those_who_wait() -> None:
    async with sleeping() as (manager, garage):
        first = (await touch(manager, A)).engine
        await touch(manager, B)
        garage.engines[0].nap_errors.append(RuntimeError("out of memory"))
        waiting = [asyncio.create_task(touch(manager, A)) for _ in range(3)]
        for each in waiting:
            assert (await each).engine is not first
        assert garage.log[-4:] == ["wake a", "close a", "closed a", "start a"]
        told = [event for event in garage.observed.events if event[1] == A_NAME]
        assert told[2:] == [("not woken", A_NAME), ("unloaded", A_NAME, "died"), ("loaded", A_NAME)]


@virtual
async def test_one_that_cannot_be_put_to_sleep_is_closed() -> None:
    async with sleeping() as (manager, garage):
        garage.nap_errors.append(RuntimeError("no memory to pin"))
        await touch(manager, A)
        await touch(manager, B)
        assert garage.log == ["start a", "sleep a", "close a", "closed a", "start b"]
        assert ("unloaded", A_NAME, "evicted") in garage.observed.events


@virtual
async def test_who_leaves_while_an_engine_wakes_has_it_stay_awake() -> None:
    async with sleeping(keep_alive_s=10) as (manager, garage):
        await touch(manager, A)
        await advance(11)
        leaving = asyncio.create_task(touch(manager, A))
        await asyncio.sleep(0)
        leaving.cancel()
        await settle()
        assert (names(manager.loaded()), asleep(manager)) == (["a"], [])
        assert garage.log == ["start a", "sleep a", "wake a"]


@virtual
async def test_a_model_that_is_deleted_is_not_kept_asleep() -> None:
    async with sleeping() as (manager, garage):
        await touch(manager, A)
        await touch(manager, B)
        manager.left(A, is_shared=True)
        await settle()
        assert asleep(manager) == ["a"]
        manager.left(A, is_shared=False)
        await settle()
        assert garage.alive == ["b"]


@virtual
async def test_an_adapter_that_is_forgotten_meanwhile_is_told_of_at_the_wake() -> None:
    """vLLM would write to memory that it does not have while it sleeps."""
    async with sleeping() as (manager, garage):
        garage.adapter_rank = 8
        await touch(manager, A)
        await touch(manager, B)
        manager.forget([replace(ADAPTED, engine_key="a")])
        assert garage.engines[0].forgotten == []
        await touch(manager, A)
        assert garage.engines[0].forgotten == [ADAPTED.adapter]


@virtual
async def test_one_without_room_for_an_adapter_that_has_come_is_closed_and_loaded_anew() -> None:
    async with sleeping() as (manager, garage):
        await touch(manager, A)
        await touch(manager, B)
        held = await touch(manager, replace(ADAPTED, engine_key="a"))
        assert held.engine.adapter_rank == 8
        assert "wake a" not in garage.log


@virtual
async def test_what_sleeps_where_another_is_in_use_is_loaded_anew_where_there_is_room() -> None:
    async with sleeping(count=2, keep_alive_s=10, only={"b": (0,)}) as (manager, garage):
        await touch(manager, A)
        await advance(11)
        assert asleep(manager) == ["a"]
        async with lease(manager, B):
            await touch(manager, A)
            assert garage.log == ["start a", "sleep a", "start b", "close a", "closed a", "start a"]
            assert sorted(names(manager.loaded())) == ["a", "b"]


@virtual
async def test_loads_on_two_devices_go_side_by_side_and_on_one_they_do_not() -> None:
    starts: list[str] = []
    shelf = Shelf(2)
    ledger = Ledger(shelf)
    async with managed(ledger=ledger) as (manager, garage):
        shelf.garage, shelf.only = garage, {"a": (0,), "b": (1,), "c": (0,)}
        garage.device_of = partial(device_of, ledger)
        held = asyncio.Event()
        whole = garage.start

        async def start(model: Model) -> object:
            starts.append(model.name.model)
            await held.wait()
            return await whole(model)

        limits = {"keep_alive_s": 300.0, "load_timeout_s": 1e9, "max_queue": 9}
        manager = Manager(start, ledger=ledger, **limits)  # type: ignore[arg-type]
        waiting = [asyncio.create_task(touch(manager, each)) for each in (A, C, B)]
        await settle()
        assert starts == ["a", "b"]
        held.set()
        await asyncio.gather(*waiting)
        assert starts == ["a", "b", "c"]
        await manager.close()


@virtual
async def test_where_the_driver_has_never_answered_a_load_is_refused_with_a_sentence() -> None:
    shelf = Shelf()
    shelf.silent = True
    async with managed(ledger=Ledger(shelf)) as (manager, garage):
        with pytest.raises(LoadFailed) as caught:
            await touch(manager, A)
        reason = "the memory of the devices is not known, since their driver does not answer"
        assert str(caught.value) == f"model a:latest cannot be loaded: {reason}"
        shelf.silent, shelf.garage = False, garage
        await touch(manager, A)


@virtual
async def test_the_engine_of_a_model_that_was_deleted_is_not_loaded_again_after_its_death() -> None:
    served: list[Model] = [A, A2]

    def heir(model: Model) -> Model | None:
        return next((each for each in served if each.engine_key == model.engine_key), None)

    async with sleeping(heir=heir) as (manager, garage):
        async with lease(manager, A):
            served.remove(A)
            garage.engines[0].die()
            await settle()
            assert garage.log[-1] == "start a2"
        async with lease(manager, A2):
            served.clear()
            garage.engines[1].die()
            await advance(100)
        assert garage.alive == []
        assert manager.down == []
