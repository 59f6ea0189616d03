"""What becomes of a model whose engine dies or does not load: down, loaded again in time, or given up."""

import asyncio
import math

import pytest

from app.core.errors import Draining, EngineDied, LoadFailed, Overloaded
from app.runtime.manager import Manager
from tests.unit.garage import A2, SPANNING, A, B, Garage, lease, managed, touch
from tests.unit.virtual_time import advance, now, settle, virtual


def troubles(manager: Manager) -> list[tuple[str, str]]:
    return [(str(each.model.name), each.trouble) for each in manager.down]


async def die(garage: Garage) -> None:
    garage.engines[-1].die()
    await settle()


@virtual
async def test_a_dead_engine_is_dropped_at_once_and_loaded_again_without_a_request() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        garage.may_start.clear()
        await die(garage)
        assert (manager.ready(A), manager.loaded(), garage.alive) == (False, [], [])
        assert troubles(manager) == [("a:latest", "restarting")]
        garage.may_start.set()
        await settle()
        assert (manager.ready(A), troubles(manager), len(garage.engines)) == (True, [], 2)


@virtual
async def test_requests_wait_for_the_engine_that_takes_over_within_the_queue() -> None:
    async with managed(max_queue=2) as (manager, garage):
        await touch(manager, A)
        garage.may_start.clear()
        await die(garage)
        waiters = [asyncio.create_task(touch(manager, each)) for each in (A, A2)]
        await settle()
        with pytest.raises(Overloaded):
            await touch(manager, A)
        garage.may_start.set()
        assert [held.engine for held in await asyncio.gather(*waiters)] == [garage.engines[1]] * 2


@virtual
async def test_the_keep_alive_outlives_the_engine() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A, keep_alive_s=20)
        await advance(15)
        await die(garage)
        await advance(15)
        assert manager.ready(A)
        await advance(6)
        assert (manager.ready(A), troubles(manager), len(garage.engines)) == (False, [], 2)


@virtual
async def test_what_was_not_to_stay_is_not_loaded_again() -> None:
    async with managed() as (manager, garage):
        async with lease(manager, A, keep_alive_s=0):
            await die(garage)
            assert troubles(manager) == []
        assert len(garage.engines) == 1


@virtual
async def test_a_restart_takes_no_other_models_place() -> None:
    async with managed(max_loaded=1) as (manager, garage):
        async with lease(manager, A):
            other = asyncio.create_task(touch(manager, B))
            await settle()
            await die(garage)
            await other
        await settle()
        assert (garage.alive, troubles(manager)) == (["b"], [])


@virtual
async def test_failed_restarts_come_ever_later_and_each_tells_those_who_wait() -> None:
    async with managed(crash_limit=0) as (manager, garage):
        await touch(manager, A)
        begun = now()
        garage.errors = [OSError(f"broken {number}") for number in range(4)]
        await die(garage)
        assert troubles(manager) == [("a:latest", "failed to load")]
        waits = [1, 2, 4, 8]
        for number, wait in enumerate(waits[:-1], 1):
            with pytest.raises(LoadFailed, match=f"broken {number}"):
                await touch(manager, A)
            assert now() - begun == pytest.approx(sum(waits[:number]), abs=0.01), wait
        await touch(manager, A)
        assert now() - begun == pytest.approx(sum(waits), abs=0.01)
        assert troubles(manager) == []


@virtual
async def test_a_back_off_holds_up_no_other_model() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        garage.errors = [OSError("broken")]
        await die(garage)
        begun = now()
        await touch(manager, B)
        assert now() - begun < 0.1
        assert troubles(manager) == [("a:latest", "failed to load")]


@virtual
async def test_unloading_a_model_that_rests_ends_its_restarts() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        garage.errors = [OSError("broken")]
        await die(garage)
        manager.unload(A)
        assert troubles(manager) == []
        await advance(100)
        assert len(garage.engines) == 1


@virtual
async def test_a_crash_loop_is_given_up_with_the_reason() -> None:
    async with managed(crash_limit=3) as (manager, garage):
        await touch(manager, A)
        garage.errors = [OSError("no memory")] * 9
        await die(garage)
        waiter = asyncio.create_task(touch(manager, A))
        await advance(1000)
        with pytest.raises(LoadFailed, match="no memory"):
            await waiter
        assert garage.hopeless == ["gave up on a:latest: no memory"]
        assert troubles(manager) == [("a:latest", "failed to load")]
        assert len(garage.errors) == 7, "it was tried after it was given up"


@virtual
async def test_engines_that_die_soon_are_a_crash_loop_and_others_are_not() -> None:
    async with managed(keep_alive_s=math.inf, crash_limit=3, crash_window_s=60) as (manager, garage):
        await touch(manager, A)
        for _ in range(4):
            await advance(61)
            await die(garage)
            assert garage.hopeless == []
        for _ in range(2):
            await advance(50)
            await die(garage)
        assert garage.hopeless == ["gave up on a:latest: its engine keeps dying"]


@virtual
async def test_a_preloaded_model_is_down_until_its_first_load_is_done() -> None:
    async with managed() as (manager, garage):
        assert manager.started
        garage.may_start.clear()
        garage.errors = [OSError("broken")] * 2
        manager.preload(A)
        await settle()
        assert (manager.started, troubles(manager)) == (False, [("a:latest", "loading")])
        garage.may_start.set()
        await settle()
        assert (manager.started, troubles(manager)) == (False, [("a:latest", "failed to load")])
        await advance(1.1)
        assert (manager.started, troubles(manager), garage.alive) == (True, [], ["a"])
        await advance(400)
        assert (manager.started, troubles(manager), garage.alive) == (True, [], [])


@virtual
async def test_a_model_that_a_request_loads_in_vain_is_not_down() -> None:
    async with managed() as (manager, garage):
        garage.errors = [OSError("broken")] * 9
        for _ in range(6):
            with pytest.raises(LoadFailed):
                await touch(manager, A)
        assert (troubles(manager), garage.hopeless) == ([], [])


@virtual
async def test_closing_fails_what_waits_for_a_restart() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        garage.errors = [OSError("broken")]
        await die(garage)
        waiter = asyncio.create_task(touch(manager, A))
        await settle()
        await manager.close()
        with pytest.raises(Draining):
            await waiter


@virtual
async def test_a_request_that_the_end_of_the_server_cuts_off_is_told_so() -> None:
    async with managed() as (manager, garage):

        async def request() -> None:
            async with lease(manager, A):
                await garage.engines[0].wait_dead()
                raise EngineDied("gone")

        under_way = asyncio.create_task(request())
        await settle()
        closing = asyncio.create_task(manager.close())
        await settle()
        garage.engines[0].die()
        await closing
        with pytest.raises(Draining):
            await under_way


@pytest.mark.parametrize("limit", [0, 5])
@virtual
async def test_an_engine_that_spans_nodes_is_not_loaded_again_from_one_of_them(limit: int) -> None:
    """Its ranks elsewhere are left in the old world: only a new start of all pods brings it back."""
    async with managed(crash_limit=limit) as (manager, garage):
        manager.preload(SPANNING)
        await settle()
        await die(garage)
        await advance(100)
        assert garage.hopeless == ["gave up on a:latest: its engine keeps dying"]
        assert len(garage.engines) == 1
