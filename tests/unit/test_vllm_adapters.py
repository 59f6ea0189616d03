"""The books of an engine's adapters, without an engine."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import EngineDied, EngineFailed, LoadFailed
from app.core.model import Adapter


class Llm:
    """What vLLM is asked for; `held` keeps the answers back, `error` is raised."""

    def __init__(self) -> None:
        self.added: list[int] = []
        self.removed: list[int] = []
        self.held = asyncio.Event()
        self.held.set()
        self.error: Exception | None = None

    async def add_lora(self, request: Any) -> bool:
        self.added.append(request.lora_int_id)
        await self.held.wait()
        if self.error is not None:
            raise self.error
        return True

    async def remove_lora(self, number: int) -> bool:
        self.removed.append(number)
        return True


def adapters(llm: Llm, rank: int = 16, capacity: int = 2, fault: str = "") -> Any:
    from app.engine.vllm.adapters import Adapters

    made: Any = Adapters
    return made(llm, rank, capacity, fault)


def adapter(letter: str, rank: int = 8) -> Adapter:
    return Adapter(Path("/adapters") / letter, letter * 64, rank, 1)


async def number(books: Any, wanted: Adapter | None) -> int | None:
    async with books.used(wanted) as request:
        return None if request is None else request.lora_int_id


async def test_an_adapter_is_added_once_for_all_who_wait_and_keeps_its_number() -> None:
    llm = Llm()
    books = adapters(llm)
    llm.held.clear()
    asked = [asyncio.ensure_future(number(books, adapter(letter))) for letter in "aab"]
    await asyncio.sleep(0)
    llm.held.set()
    assert await asyncio.gather(*asked) == [1, 1, 2]
    assert await number(books, adapter("a")) == 1
    assert llm.added == [1, 2]
    assert await number(books, None) is None


async def test_one_who_leaves_ends_it_for_no_other() -> None:
    llm = Llm()
    books = adapters(llm)
    llm.held.clear()
    first, second = (asyncio.ensure_future(number(books, adapter("a"))) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    llm.held.set()
    assert await second == 1
    assert first.cancelled()


async def test_where_more_are_known_than_fit_each_is_made_sure_of() -> None:
    llm = Llm()
    books = adapters(llm, capacity=1)
    for letter in "abab":
        await number(books, adapter(letter))
    assert llm.added == [1, 2, 1, 2]


async def test_a_failure_is_told_without_paths_and_tried_again() -> None:
    llm = Llm()
    books = adapters(llm)
    llm.error = Exception(
        "Call to add_lora method failed: Worker failed with error 'While loading /adapters/a, no luck', "
        "please check the stack trace above for the root cause"
    )
    with pytest.raises(EngineFailed, match=r"cannot be used: While loading its folder, no luck$"):
        await number(books, adapter("a"))
    llm.error = None
    assert await number(books, adapter("a")) == 1


async def test_what_is_forgotten_goes_with_its_last_user_and_its_number_with_it() -> None:
    llm = Llm()
    books = adapters(llm)
    async with books.used(adapter("a")):
        books.forget(adapter("a"))
        books.forget(adapter("b"))
        assert llm.removed == []
    await asyncio.sleep(0)
    assert llm.removed == [1]
    assert await number(books, adapter("a")) == 2
    async with books.used(adapter("a")):
        books.forget(adapter("a"))
        assert await number(books, adapter("a")) == 2, "a model has it again"
    await asyncio.sleep(0)
    assert llm.removed == [1]


async def test_the_end_of_the_engine_ends_the_wait() -> None:
    llm = Llm()
    books = adapters(llm)
    llm.held.clear()
    waiting = asyncio.ensure_future(number(books, adapter("a")))
    await asyncio.sleep(0)
    books.end()
    with pytest.raises(EngineDied):
        await waiting


async def test_room_is_up_to_a_rank() -> None:
    books = adapters(Llm())
    assert books.takes(None)
    assert books.takes(adapter("a", 16))
    assert not books.takes(adapter("a", 17))
    assert not adapters(Llm(), rank=0).takes(adapter("a"))
    with pytest.raises(LoadFailed, match="no room"):
        adapters(Llm(), rank=0, fault="no room").takes(adapter("a"))


async def test_on_a_cpu_what_has_no_adapter_gets_one_of_zeros() -> None:
    llm = Llm()
    books = adapters(llm)
    await books.open()
    assert (llm.added, await number(books, None)) == ([1], 1)
    assert await number(books, adapter("a")) == 2
    without = adapters(Llm(), rank=0)
    await without.open()
    assert await number(without, None) is None
