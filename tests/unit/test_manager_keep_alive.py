"""How long the manager keeps an engine: idle timers, keep-alive and unloading (docs/reference 4.1, 17)."""

import asyncio
import math
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
import uvloop

from app.core.errors import LoadFailed
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.runtime.manager import Manager
from tests.unit.garage import A2, SPANNING, A, B, lease, managed, seconds_left, touch
from tests.unit.virtual_time import advance, settle, virtual


@virtual
async def test_the_idle_timer_starts_when_the_last_request_ends_and_each_resets_it() -> None:
    async with managed(keep_alive_s=300) as (manager, garage):
        async with lease(manager, A):
            await advance(1000)
            await touch(manager, A)
            await advance(1000)
        await advance(299)
        await touch(manager, A)
        await advance(299)
        assert garage.alive == ["a"]
        await advance(2)
        assert garage.alive == []
        assert manager.loaded() == []


@pytest.mark.parametrize("keep_alive_s", [10, 1.5])
@pytest.mark.point(104)
@virtual
async def test_keep_alive_is_seconds_after_the_last_use(keep_alive_s: float) -> None:
    async with managed() as (manager, garage):
        await touch(manager, A, keep_alive_s=keep_alive_s)
        assert seconds_left(manager.loaded()[0]) == pytest.approx(keep_alive_s, abs=0.5)
        await advance(keep_alive_s - 0.01)
        assert garage.alive == ["a"]
        await advance(0.02)
        assert garage.alive == []


@pytest.mark.point(105)
@virtual
async def test_no_keep_alive_keeps_the_setting() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A, keep_alive_s=10)
        await touch(manager, A)
        assert seconds_left(manager.loaded()[0]) == pytest.approx(10, abs=0.5)
        await advance(11)
        assert garage.alive == []
        await touch(manager, A)
        assert seconds_left(manager.loaded()[0]) == pytest.approx(300, abs=0.5)


@pytest.mark.point(106)
@virtual
async def test_keep_alive_zero_unloads_after_the_answer() -> None:
    async with managed() as (manager, garage):
        async with lease(manager, A, keep_alive_s=0):
            await advance(100)
            assert garage.alive == ["a"]
        assert manager.loaded() == []
        await settle()
        assert garage.alive == []


@virtual
async def test_a_later_keep_alive_replaces_zero() -> None:
    async with managed() as (manager, garage):
        async with lease(manager, A, keep_alive_s=0):
            await touch(manager, A, keep_alive_s=60)
        await advance(59)
        assert garage.alive == ["a"]


@pytest.mark.point(103, 107)
@pytest.mark.parametrize(("default_s", "asked_s"), [(300, math.inf), (math.inf, None)])
@virtual
async def test_for_ever(default_s: float, asked_s: float | None) -> None:
    async with managed(keep_alive_s=default_s) as (manager, garage):
        await touch(manager, A, keep_alive_s=asked_s)
        assert manager.loaded()[0].expires_at > datetime.now(UTC) + timedelta(days=365 * 100)
        await advance(1e8)
        assert garage.alive == ["a"]


@virtual
async def test_a_keep_alive_longer_than_any_timer() -> None:
    week_s = 7 * 86400.0
    async with managed(keep_alive_s=week_s) as (manager, garage):
        await touch(manager, A)
        await advance(week_s - 1)
        assert garage.alive == ["a"]
        await advance(2)
        assert garage.alive == []


def test_timers_ring_on_uvloop_by_the_real_clock() -> None:
    async def main() -> None:
        closed = asyncio.Event()

        class Closing(FakeEngine):
            async def close(self) -> None:
                closed.set()

        async def start(_: Model) -> Closing:
            return Closing()

        manager = Manager(start, keep_alive_s=0.02, load_timeout_s=60, max_queue=1)
        await touch(manager, A)
        assert manager.ready(A)
        async with asyncio.timeout(30):
            await closed.wait()
        await manager.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# Unloading.


@pytest.mark.point(63)
@virtual
async def test_unload_takes_an_idle_engine_out_at_once() -> None:
    async with managed() as (manager, garage):
        manager.unload(A)
        await touch(manager, A)
        garage.may_close.clear()
        manager.unload(A)
        assert (manager.loaded(), manager.ready(A)) == ([], False)
        await settle()
        assert garage.log == ["start a", "close a"]
        garage.may_close.set()


@virtual
async def test_unload_waits_for_the_last_request() -> None:
    async with managed() as (manager, garage):
        async with lease(manager, A):
            async with lease(manager, A):
                manager.unload(A)
                await advance(100)
            assert garage.alive == ["a"]
        await settle()
        assert garage.alive == []


@virtual
async def test_unload_by_another_name_of_the_engine() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        manager.unload(A2)
        await settle()
        assert garage.alive == []


@pytest.mark.parametrize("asks", [True, False])
@virtual
async def test_with_keyed_an_unload_ends_only_that_models_claim(asks: bool) -> None:
    """R3: a key for one model could unload the engine under another that shares it."""
    async with managed(keep_alive_s=300, keyed=True) as (manager, garage):
        await touch(manager, A, keep_alive_s=100)
        await touch(manager, A2)
        if asks:
            await touch(manager, A2, keep_alive_s=0)
        else:
            manager.unload(A2)
        await settle()
        assert garage.alive == ["a"]
        assert seconds_left(manager.loaded()[0]) == pytest.approx(100, abs=0.5)
        manager.unload(A)
        await settle()
        assert garage.alive == []


@virtual
async def test_with_keyed_a_model_that_another_needs_not_is_unloaded_by_its_own_name() -> None:
    async with managed(keyed=True) as (manager, garage):
        manager.preload(A)
        await settle()
        manager.unload(A2)
        await settle()
        assert garage.alive == ["a"]
        await touch(manager, A, keep_alive_s=math.inf)
        await touch(manager, A2)
        manager.unload(A)
        await settle()
        assert seconds_left(manager.loaded()[0]) == pytest.approx(300, abs=0.5)
        manager.unload(A2)
        await settle()
        assert garage.alive == []


@pytest.mark.parametrize("given_up_s", [300, math.inf])
@virtual
async def test_with_keyed_a_claim_given_up_leaves_the_other_its_own_end(given_up_s: float) -> None:
    async with managed(keyed=True) as (manager, garage):
        await touch(manager, A2, keep_alive_s=20)
        await touch(manager, A, keep_alive_s=given_up_s)
        manager.unload(A)
        await advance(19.9)
        assert garage.alive == ["a"]
        await advance(0.2)
        assert garage.alive == []


@pytest.mark.parametrize("waiter_stays", [True, False])
@virtual
async def test_unload_during_the_load_takes_effect_after_it(waiter_stays: bool) -> None:
    async with managed() as (manager, garage):
        garage.may_start.clear()
        waiter = asyncio.create_task(touch(manager, A, keep_alive_s=300))
        await settle()
        manager.unload(A)
        if not waiter_stays:
            waiter.cancel()
        await settle()
        garage.may_start.set()
        await settle()
        assert waiter.cancelled() is not waiter_stays
        assert garage.log == ["start a", "close a", "closed a"]


@virtual
async def test_a_request_during_the_unload_waits_for_its_end_and_loads_again() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        garage.may_close.clear()
        manager.unload(A)
        waiter = asyncio.create_task(touch(manager, A))
        await advance(100)
        assert garage.log == ["start a", "close a"]
        garage.may_close.set()
        assert (await waiter).engine is garage.engines[1]
        assert garage.log == ["start a", "close a", "closed a", "start a"]


@virtual
async def test_a_request_before_the_unload_began_waits_for_it_too() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        garage.may_start.clear()
        other = asyncio.create_task(touch(manager, B))
        await settle()
        manager.unload(A)
        again = asyncio.create_task(touch(manager, A))
        await settle()
        garage.may_start.set()
        await asyncio.gather(other, again)
        assert garage.log == ["start a", "start b", "close a", "closed a", "start a"]


@virtual
async def test_an_unload_waits_for_the_load_of_another_model() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        garage.may_start.clear()
        waiter = asyncio.create_task(touch(manager, B))
        await settle()
        manager.unload(A)
        await advance(100)
        assert garage.log == ["start a", "start b"]
        assert manager.loaded() == []
        garage.may_start.set()
        await waiter
        await settle()
        assert garage.log == ["start a", "start b", "close a", "closed a"]


@virtual
async def test_an_engine_that_fails_to_close_does_not_stop_the_manager(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        garage.close_errors = [OSError("stuck")]
        manager.unload(A)
        await touch(manager, A)
        assert len(garage.engines) == 2
    assert "stuck" in caplog.text


@virtual
async def test_leases_may_end_in_any_order() -> None:
    async with managed(keep_alive_s=0) as (manager, garage):
        first, second = AsyncExitStack(), AsyncExitStack()
        await first.enter_async_context(lease(manager, A))
        await second.enter_async_context(lease(manager, A2))
        await first.aclose()
        await settle()
        assert garage.alive == ["a"]
        await second.aclose()
        await settle()
        assert garage.alive == []


@virtual
async def test_an_engine_that_spans_nodes_is_unloaded_by_no_client_and_for_no_other_model() -> None:
    async with managed(keep_alive_s=1, max_loaded=1) as (manager, garage):
        await touch(manager, SPANNING, keep_alive_s=0)
        manager.unload(SPANNING)
        await advance(100)
        assert (garage.alive, manager.loaded()[0].expires_at.year > 2200) == (["a"], True)
        with pytest.raises(LoadFailed, match="too large"):
            await touch(manager, B)
        assert garage.alive == ["a"]
