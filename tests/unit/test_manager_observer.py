"""What the manager tells its observer."""

import math

import pytest

from app.core.errors import LoadFailed
from tests.unit.garage import A, B, managed, touch
from tests.unit.virtual_time import advance, settle, virtual

A_NAME, B_NAME = str(A.name), str(B.name)


@virtual
async def test_a_load_and_each_reason_to_unload() -> None:
    async with managed(max_loaded=1) as (manager, garage):
        await touch(manager, A)
        await touch(manager, B, keep_alive_s=2)
        await advance(3)
        await touch(manager, A)
        manager.unload(A)
        await settle()
        await touch(manager, A, keep_alive_s=math.inf)
    assert garage.observed.events == [
        ("loaded", A_NAME),
        ("unloaded", A_NAME, "evicted"),
        ("loaded", B_NAME),
        ("unloaded", B_NAME, "idle"),
        ("loaded", A_NAME),
        ("unloaded", A_NAME, "asked"),
        ("loaded", A_NAME),
        ("unloaded", A_NAME, "shutdown"),
    ]


@virtual
async def test_a_failed_load() -> None:
    async with managed() as (manager, garage):
        garage.errors = [OSError("broken")]
        with pytest.raises(LoadFailed):
            await touch(manager, A)
    assert garage.observed.events == [("load failed", A_NAME)]


@virtual
async def test_a_death_and_the_load_after_it() -> None:
    async with managed() as (manager, garage):
        await touch(manager, A)
        garage.engines[0].die()
        await settle()
        await touch(manager, A)
        assert garage.observed.events == [
            ("loaded", A_NAME),
            ("died", A_NAME),
            ("unloaded", A_NAME, "died"),
            ("restarting", A_NAME),
            ("loaded", A_NAME),
            ("restarted", A_NAME),
        ]
