"""How the manager loads, queues, lists what is loaded and ends."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from app.core import progress
from app.core.context import Caller
from app.core.errors import EngineDied, LoadFailed, Overloaded
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.runtime.entry import Lease
from app.runtime.loader import Loader
from tests.unit.garage import A2, A, B, C, lease, managed, model, names, touch
from tests.unit.virtual_time import advance, now, settle, virtual

BUSY = "server busy, please try again.  maximum pending requests exceeded"


@virtual
async def test_many_waiters_share_one_load() -> None:
    async with managed() as (manager, garage):
        garage.may_start.clear()
        waiters = [asyncio.create_task(touch(manager, A)) for _ in range(5)]
        await settle()
        assert (manager.waiting, manager.ready(A), manager.loaded()) == (5, False, [])
        garage.may_start.set()
        leases = await asyncio.gather(*waiters)
        assert {id(held.engine) for held in leases} == {id(garage.engines[0])}
        assert garage.log == ["start a"]
        assert manager.ready(A)


@virtual
async def test_models_with_one_engine_key_share_the_engine() -> None:
    async with managed() as (manager, garage):
        first, second = await touch(manager, A), await touch(manager, A2)
        assert first.engine is second.engine
        assert garage.log == ["start a"]
        assert names(manager.loaded()) == ["a"]
        assert manager.ready(A2)


@virtual
async def test_a_waiter_that_goes_away_does_not_stop_the_load_of_the_others() -> None:
    async with managed() as (manager, garage):
        garage.may_start.clear()
        first, second = asyncio.create_task(touch(manager, A)), asyncio.create_task(touch(manager, A))
        await settle()
        first.cancel()
        await settle()
        assert (first.cancelled(), manager.waiting, manager.in_use) == (True, 1, 1)
        garage.may_start.set()
        assert (await second).engine is garage.engines[0]
        assert garage.log == ["start a"]


@virtual
async def test_a_load_that_nobody_waits_for_any_more_finishes_and_then_expires() -> None:
    async with managed(keep_alive_s=10) as (manager, garage):
        garage.may_start.clear()
        waiter = asyncio.create_task(touch(manager, A))
        await settle()
        waiter.cancel()
        await settle()
        garage.may_start.set()
        await settle()
        assert names(manager.loaded()) == ["a"]
        await advance(11)
        assert garage.log == ["start a", "close a", "closed a"]


@pytest.mark.parametrize("turns", range(8))
@virtual
async def test_a_waiter_that_leaves_just_as_the_load_ends_leaks_nothing(turns: int) -> None:
    async with managed(keep_alive_s=0) as (manager, garage):
        garage.may_start.clear()
        waiter = asyncio.create_task(touch(manager, A))
        await settle()
        garage.may_start.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        waiter.cancel()
        await settle()
        assert waiter.done()
        assert (manager.in_use, manager.waiting, garage.alive) == (0, 0, [])


@virtual
async def test_a_model_that_nobody_waits_for_any_more_is_not_loaded() -> None:
    async with managed() as (manager, garage):
        garage.may_start.clear()
        first, second = asyncio.create_task(touch(manager, A)), asyncio.create_task(touch(manager, B))
        await settle()
        second.cancel()
        garage.may_start.set()
        await first
        await settle()
        assert garage.log == ["start a"]


@virtual
async def test_loads_are_made_one_at_a_time_in_order() -> None:
    async with managed() as (manager, garage):
        garage.may_start.clear()
        waiters = [asyncio.create_task(touch(manager, each)) for each in (B, A, C)]
        await settle()
        assert garage.log == ["start b"]
        garage.may_start.set()
        await asyncio.gather(*waiters)
        assert garage.log == ["start b", "start a", "start c"]


@virtual
async def test_a_failed_load_is_told_by_the_name_that_was_asked_for() -> None:
    """Of another model with the same weights nobody reads, whose key may not name it."""
    async with managed() as (manager, garage):
        garage.errors = [ValueError(f"failed to load model {A.name}: no such file")]
        failures = await asyncio.gather(touch(manager, A), touch(manager, A2), return_exceptions=True)
        told = [f"failed to load model {name}: no such file" for name in ("a:latest", "a2:latest")]
        assert [(type(each), str(each)) for each in failures] == [(LoadFailed, text) for text in told]
        assert isinstance(failures[1], LoadFailed)
        assert isinstance(failures[1].__cause__, ValueError)


@virtual
async def test_a_failed_load_tells_every_waiter_why_and_the_next_request_tries_again() -> None:
    async with managed() as (manager, garage):
        garage.errors = [ValueError("no such file")]
        failures = await asyncio.gather(touch(manager, A), touch(manager, A), return_exceptions=True)
        assert [(type(each), str(each)) for each in failures] == [(LoadFailed, "no such file")] * 2
        assert failures[0] is not failures[1]
        assert isinstance(failures[0], LoadFailed)
        assert isinstance(failures[0].__cause__, ValueError)
        assert (await touch(manager, A)).engine is garage.engines[0]


@virtual
async def test_a_failed_load_lets_the_next_model_load() -> None:
    async with managed() as (manager, garage):
        garage.errors = [LoadFailed("bad weights")]
        first, second = await asyncio.gather(touch(manager, A), touch(manager, B), return_exceptions=True)
        assert str(first) == "bad weights"
        assert isinstance(second, Lease)


@virtual
async def test_a_start_that_cancels_itself_is_a_failed_load() -> None:
    async with managed() as (manager, garage):
        garage.may_start.clear()
        waiter = asyncio.create_task(touch(manager, A))
        await settle()
        (inner,) = asyncio.all_tasks() - {asyncio.current_task(), waiter, *tasks_named("engine moves")}
        inner.cancel()
        with pytest.raises(LoadFailed):
            await waiter
        garage.may_start.set()
        await touch(manager, A)


def tasks_named(part: str) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if part in task.get_name()]


@virtual
async def test_a_load_that_takes_too_long_fails() -> None:
    async with managed(load_timeout_s=60) as (manager, garage):
        garage.may_start.clear()
        with pytest.raises(LoadFailed, match="timed out waiting for the model to load"):
            await touch(manager, A)
        assert now() == pytest.approx(60)
        assert garage.log == ["start a", "cancelled a"]


@virtual
async def test_load_ns_is_this_requests_own_wait() -> None:
    async with managed() as (manager, garage):
        garage.may_start.clear()
        first = asyncio.create_task(touch(manager, A))
        await advance(2)
        second = asyncio.create_task(touch(manager, A))
        await advance(3)
        garage.may_start.set()
        waits = [(await first).load_ns, (await second).load_ns, (await touch(manager, A)).load_ns]
        assert waits == [pytest.approx(5e9), pytest.approx(3e9), 1]


@pytest.mark.point(235)
@virtual
async def test_more_waiters_than_the_queue_holds_are_refused_at_once() -> None:
    async with managed(max_queue=2) as (manager, garage):
        await touch(manager, A)
        garage.may_start.clear()
        waiters = [asyncio.create_task(touch(manager, each)) for each in (B, C)]
        await settle()
        for wanted in (B, model("d")):
            with pytest.raises(Overloaded) as refused:
                await touch(manager, wanted)
            assert str(refused.value) == BUSY
        assert (await touch(manager, A)).engine is garage.engines[0]
        waiters.pop().cancel()
        await settle()
        waiters.append(asyncio.create_task(touch(manager, B)))
        garage.may_start.set()
        await asyncio.gather(*waiters)


@virtual
async def test_a_queue_of_none_still_takes_one() -> None:
    async with managed(max_queue=0) as (manager, garage):
        garage.may_start.clear()
        waiter = asyncio.create_task(touch(manager, A))
        await settle()
        with pytest.raises(Overloaded):
            await touch(manager, A)
        garage.may_start.set()
        await waiter


@virtual
async def test_a_busy_engine_takes_its_slots_and_a_queue_and_refuses_the_next() -> None:
    async with managed(slots=2, max_queue=1) as (manager, garage):
        async with lease(manager, A), lease(manager, A), lease(manager, A):
            with pytest.raises(Overloaded) as refused:
                await touch(manager, A)
            assert str(refused.value) == BUSY
            assert manager.in_use == 3
            with pytest.raises(Overloaded):
                await touch(manager, A2)
            await touch(manager, B)
        await touch(manager, A)
        assert garage.log == ["start a", "start b"]


@virtual
async def test_a_full_queue_of_one_key_still_takes_another_keys_request() -> None:
    async with managed(slots=1, max_queue=3) as (manager, _):
        served: list[str] = []

        async def ask(key_id: str) -> None:
            who = Caller(key_id=key_id)
            async with (
                manager.lease(A, keep_alive_s=None, num_ctx=None, caller=who) as held,
                held.turns.turn(key_id, 0, 1),
            ):
                await advance(1)
                served.append(key_id)

        await touch(manager, A)
        flood = [asyncio.create_task(ask("flood")) for _ in range(4)]
        await settle()
        with pytest.raises(Overloaded):
            await ask("flood")
        await ask("other")
        ends = await asyncio.gather(*flood, return_exceptions=True)
        assert served == ["flood", "other", "flood", "flood"]
        assert [str(end) for end in ends if end is not None] == [BUSY]


@virtual
async def test_an_engine_that_dies_ends_the_requests_that_wait_for_a_turn() -> None:
    async with managed(slots=1) as (manager, garage):

        async def ask() -> None:
            async with lease(manager, A) as held, held.turns.turn("", 0, 1):
                await advance(100)

        first, second = asyncio.create_task(ask()), asyncio.create_task(ask())
        await settle()
        assert manager.queued() == [(A, 1)]
        garage.engines[0].die()
        await settle()
        with pytest.raises(EngineDied):
            await second
        first.cancel()
        await settle()


@pytest.mark.parametrize(
    ("num_ctx", "expected"), [(None, 4096), (16, 16), (2048, 2048), (8192, 8192), (100_000, 8192)]
)
@virtual
async def test_the_context_length_is_what_was_asked_within_the_window(
    num_ctx: int | None, expected: int
) -> None:
    async with managed() as (manager, _):
        await touch(manager, A, num_ctx=99)
        assert (await touch(manager, A, num_ctx=num_ctx)).context_length == expected
        assert [row.context_length for row in manager.loaded()] == [expected]


# What is loaded, and the end.


@virtual
async def test_loaded_lists_what_stays_longest_first() -> None:
    async with managed() as (manager, _):
        for each, keep_alive_s in ((A, 100), (B, math.inf), (C, 200)):
            await touch(manager, each, keep_alive_s=keep_alive_s)
        rows = manager.loaded()
        assert names(rows) == ["b", "c", "a"]
        assert {(row.memory_bytes, row.vram_bytes) for row in rows} == {(1000, 10)}


@virtual
async def test_wait_idle_returns_when_the_last_request_ended() -> None:
    async with managed() as (manager, _):
        await manager.wait_idle()
        async with lease(manager, A):
            idle = asyncio.create_task(manager.wait_idle())
            await advance(10)
            assert (idle.done(), manager.in_use) == (False, 1)
        await idle


@pytest.mark.parametrize("starts_ignore_cancel", [False, True])
@virtual
async def test_close_stops_loads_and_refuses_all_who_wait(starts_ignore_cancel: bool) -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        garage.may_start.clear()
        garage.starts_ignore_cancel = starts_ignore_cancel
        waiters = [asyncio.create_task(touch(manager, each)) for each in (B, C)]
        await settle()
        await manager.close()
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert isinstance(outcomes[1], Overloaded)
        assert isinstance(outcomes[0], Lease if starts_ignore_cancel else Overloaded)
        assert (garage.alive, "start c" in garage.log) == ([], False)
        with pytest.raises(Overloaded, match="the server is shutting down"):
            await touch(manager, A)
        await manager.close()


@virtual
async def test_close_waits_for_an_unload_under_way() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        garage.may_close.clear()
        manager.unload(A)
        await settle()
        closing = asyncio.create_task(manager.close())
        await advance(10)
        assert not closing.done()
        garage.may_close.set()
        await closing
        assert garage.log.count("close a") == 1


@virtual
@pytest.mark.parametrize(("every_s", "ends"), [(50, True), (70, False)])
async def test_a_load_may_take_long_as_long_as_it_moves(every_s: float, ends: bool) -> None:
    """Ollama limits how long a load stands still, not how long it takes (docs/reference 17)."""

    async def start(_: Model) -> FakeEngine:
        moved = progress.listener()
        for _step in range(6):
            await asyncio.sleep(every_s)
            moved()
        return FakeEngine()

    loader = Loader(start, stall_s=60)
    if ends:
        assert isinstance(await loader.load(A), FakeEngine)
    else:
        with pytest.raises(LoadFailed, match="timed out waiting"):
            await loader.load(A)
        assert now() == pytest.approx(60)


@virtual
async def test_a_load_that_moves_for_ever_ends_all_the_same() -> None:
    async def start(_: Model) -> FakeEngine:
        moved = progress.listener()
        while True:
            await asyncio.sleep(10)
            moved()

    with pytest.raises(LoadFailed, match="timed out waiting"):
        await Loader(start, stall_s=60, total_s=305).load(A)
    assert now() == pytest.approx(305)


@virtual
async def test_progress_that_is_told_after_the_end_of_a_load_changes_nothing() -> None:
    late: list[Callable[[], None]] = []

    async def start(_: Model) -> FakeEngine:
        late.append(progress.listener())
        return FakeEngine()

    engine = await Loader(start, stall_s=60).load(A)
    late[0]()
    await asyncio.sleep(100)
    assert isinstance(engine, FakeEngine)
    assert not engine.closed
