"""What a request's reader finds, however far it is behind the engine."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from app.core.events import Delta, Timings, TokenLogprob
from app.engine.vllm.stream.deltas import Deltas
from app.engine.vllm.stream.pace import Pace

pytestmark = pytest.mark.filterwarnings("ignore")


def convert(output: Any) -> Delta:
    if output.text is None:
        raise RuntimeError("aborted")
    return Delta(output.text, [9], finish="stop", prompt_tokens=3, output_tokens=4, timings=Timings(1, 2))


def output(text: str | None) -> Any:
    return SimpleNamespace(text=text)


@pytest.fixture
def deltas() -> Iterator[Deltas]:
    made = Deltas("id", convert)
    yield made
    made.close()


async def test_a_reader_that_waits_gets_each_delta(deltas: Deltas) -> None:
    first = asyncio.ensure_future(deltas.next())
    await asyncio.sleep(0)
    deltas.add(Delta("a", [1]))
    assert await first == Delta("a", [1])
    deltas.add(Delta("b", [2]))
    assert await deltas.next() == Delta("b", [2])


async def test_a_reader_that_falls_behind_finds_all_in_one(deltas: Deltas) -> None:
    chance = TokenLogprob("b", -0.5, b"b")
    deltas.add(Delta("a", [1]))
    deltas.add(Delta("b", [2], [chance]))
    deltas.put(output("c"))
    assert await deltas.next() == Delta(
        "abc", [1, 2, 9], [chance], "stop", prompt_tokens=3, output_tokens=4, timings=Timings(1, 2)
    )


async def test_what_came_before_a_failure_is_read_first(deltas: Deltas) -> None:
    deltas.add(Delta("a", [1]))
    deltas.put(ValueError("gone"))
    assert (await deltas.next()).text == "a"
    with pytest.raises(ValueError, match="gone"):
        await deltas.next()


async def test_a_failure_wakes_the_reader(deltas: Deltas) -> None:
    waiting = asyncio.ensure_future(deltas.next())
    await asyncio.sleep(0)
    deltas.put(output(None))
    with pytest.raises(RuntimeError, match="aborted"):
        await waiting


async def test_a_reader_that_left_is_not_missed(deltas: Deltas) -> None:
    waiting = asyncio.ensure_future(deltas.next())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    deltas.add(Delta("a", [1]))
    assert (await deltas.next()).text == "a"


@pytest.mark.parametrize("is_read", [False, True])
async def test_an_error_keeps_nothing_alive_until_the_garbage_is_collected(is_read: bool) -> None:
    """A request that was aborted kept its engine, which had been closed, with its sockets and threads."""

    class Engine:
        def convert(self, made: Any) -> Delta:
            return convert(made)

        def abort(self, made: Deltas) -> None:
            try:
                raise asyncio.CancelledError
            except asyncio.CancelledError:
                made.put(output(None))

    engine = Engine()
    gone = weakref.ref(engine)
    made = Deltas("id", engine.convert)
    gc.disable()
    try:
        engine.abort(made)
        if is_read:
            with suppress(RuntimeError):
                await made.next()
        made.close()
        del engine, made
        assert gone() is None
    finally:
        gc.enable()


async def test_a_reader_is_woken_by_as_many_tokens_as_go_at_once() -> None:
    deltas = Deltas("id", convert, pace=Pace(3))
    reading = asyncio.ensure_future(deltas.next())
    deltas.add(Delta("a", [1], prompt_tokens=7))
    assert (await reading).text == "a", "the first goes at once"
    for text, held in (("b", True), ("c", True), ("d", False)):
        reading = asyncio.ensure_future(deltas.next()) if text == "b" else reading
        await asyncio.sleep(0)
        deltas.push(text, [1])
        await asyncio.sleep(0)
        assert reading.done() is not held
    assert await reading == Delta("bcd", [1, 1, 1])
    deltas.add(Delta("e", [1], [TokenLogprob("e", -0.5, b"e")]))
    reading = asyncio.ensure_future(deltas.next())
    await asyncio.sleep(0)
    assert not reading.done(), "what vLLM makes in full is held as well"
    deltas.put(output("f"))
    last = await reading
    assert (last.text, last.finish) == ("ef", "stop"), "the last goes at once"
    deltas.close()


async def test_what_is_held_is_released_and_an_error_does_not_wait() -> None:
    deltas = Deltas("id", convert, pace=Pace(3))
    deltas.release()
    reading = asyncio.ensure_future(deltas.next())
    await asyncio.sleep(0)
    assert not reading.done(), "there is nothing yet"
    deltas.push("a", [1])
    deltas.release()
    assert (await reading).text == "a"
    deltas.push("b", [1])
    deltas.put(ValueError("gone"))
    assert (await deltas.next()).text == "b"
    with pytest.raises(ValueError, match="gone"):
        await deltas.next()
    deltas.close()
