"""Conversions share what they do and hold up nothing else."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from app.catalogue.conversions import Conversions
from app.core import progress
from app.core.errors import LoadFailed


class Gate:
    """A conversion that ends when told to."""

    def __init__(self) -> None:
        self.begun, self.may_end, self.times = threading.Event(), threading.Event(), 0
        self.moved: Callable[[], None] = lambda: None

    def __call__(self, moved: Callable[[], None]) -> None:
        self.times += 1
        self.moved = moved
        self.begun.set()
        assert self.may_end.wait(60)

    async def seen(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 60)


async def test_who_asks_for_the_same_waits_for_it() -> None:
    conversions, gate = Conversions(), Gate()
    waiting = [asyncio.ensure_future(conversions.run("a", gate)) for _ in range(20)]
    await gate.seen()
    waiting.append(asyncio.ensure_future(conversions.run("a", gate, urgent=True)))
    await asyncio.sleep(0)
    gate.may_end.set()
    await asyncio.gather(*waiting)
    assert gate.times == 1


async def test_one_for_a_load_and_one_for_the_rest() -> None:
    conversions, gates = Conversions(), [Gate() for _ in range(4)]
    waiting = [asyncio.ensure_future(conversions.run(str(n), gate)) for n, gate in enumerate(gates[:3])]
    await gates[0].seen()
    waiting.append(asyncio.ensure_future(conversions.run("load", gates[3], urgent=True)))
    await gates[3].seen()
    assert [gate.times for gate in gates] == [1, 0, 0, 1]
    for gate in gates:
        gate.may_end.set()
    await asyncio.gather(*waiting)
    assert [gate.times for gate in gates] == [1, 1, 1, 1]


async def test_whoever_leaves_frees_what_has_not_begun() -> None:
    conversions, first, left, last = Conversions(), Gate(), Gate(), Gate()
    running = asyncio.ensure_future(conversions.run("first", first))
    await first.seen()
    leaving = [asyncio.ensure_future(conversions.run("left", left)) for _ in range(2)]
    await asyncio.sleep(0)
    running.cancel()
    for each in leaving:
        each.cancel()
    await asyncio.wait({running, *leaving})
    last.may_end.set()
    later = asyncio.ensure_future(conversions.run("last", last))
    again = asyncio.ensure_future(conversions.run("first", first))
    await asyncio.sleep(0)
    first.may_end.set()
    await asyncio.gather(later, again)
    assert (first.times, left.times, last.times) == (1, 0, 1)


async def test_a_failure_is_told_to_all_and_tried_anew() -> None:
    conversions = Conversions()

    def fails(_moved: object) -> None:
        raise LoadFailed("no")

    for outcome in await asyncio.gather(
        *(conversions.run("a", fails) for _ in range(3)), return_exceptions=True
    ):
        assert isinstance(outcome, LoadFailed)
    gate = Gate()
    gate.may_end.set()
    await conversions.run("a", gate)
    assert gate.times == 1
    with pytest.raises(LoadFailed):
        await conversions.run("a", fails)


async def test_all_who_wait_hear_that_it_moves() -> None:
    conversions, gate, heard = Conversions(), Gate(), list[str]()

    async def waits(name: str) -> None:
        progress.listen(lambda: heard.append(name))
        await conversions.run("a", gate)

    waiting = [asyncio.ensure_future(waits(name)) for name in ("one", "two")]
    await gate.seen()
    gate.moved()
    gate.may_end.set()
    await asyncio.gather(*waiting)
    assert sorted(heard) == ["one", "two"]
