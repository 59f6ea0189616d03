"""What two processes of a server say to each other, over a real pair of sockets in one process."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from app.core import errors
from app.core.errors import AppError, EngineFailed, Overloaded
from app.fronts.peer import Peer, PeerGone


@contextmanager
def pair(**offers: Any) -> Generator[tuple[Peer, Peer]]:
    """One that asks, and one that offers this."""
    ours, theirs = socket.socketpair()
    asks, offering = Peer(ours), Peer(theirs, **offers)
    asks.open()
    offering.open()
    try:
        yield asks, offering
    finally:
        asks.close()
        offering.close()


class Room:
    """What may be held: how often it is, and a place that is waited for."""

    def __init__(self, places: int = 100) -> None:
        self.free = asyncio.Semaphore(places)
        self.inside = 0

    @asynccontextmanager
    async def enter(self, number: int, what: str) -> AsyncGenerator[str, None]:
        if what == "full":
            raise Overloaded("full")
        async with self.free:
            self.inside += 1
            try:
                yield f"{what} {number}"
            finally:
                self.inside -= 1


async def test_an_answer_comes_to_its_question() -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0.01 if number == 1 else 0)
        return 2 * number

    with pair(asks={"double": double}) as (here, _):
        assert await asyncio.gather(*(here.ask("double", number) for number in (1, 2, 3))) == [2, 4, 6]


async def test_what_is_large_comes_whole_and_in_order() -> None:
    heard: list[int] = []

    async def length(text: str) -> int:
        return len(text)

    with pair(asks={"length": length}, tells={"hear": lambda text: heard.append(len(text))}) as (here, _):
        here.tell("hear", "a" * 5_000_000)
        here.tell("hear", "b")
        assert await here.ask("length", "c" * 3_000_000) == 3_000_000
    assert heard == [5_000_000, 1]


async def test_what_is_held_is_given_back_at_the_end_and_refused_in_its_own_words() -> None:
    room = Room()
    with pair(holds={"room": room.enter}) as (here, _):
        async with here.hold("room", "a") as (number, said):
            assert (said, room.inside) == (f"a {number}", 1)
        await here.hold("room", "b").__aenter__()
        assert room.inside == 1
        with pytest.raises(Overloaded, match="full"):
            async with here.hold("room", "full"):
                pass


async def test_who_waits_for_something_and_leaves_gets_it_no_more() -> None:
    room = Room(places=1)
    with pair(holds={"room": room.enter}) as (here, _):
        async with here.hold("room", "first"):
            waiting = asyncio.create_task(here.hold("room", "second").__aenter__())
            await asyncio.sleep(0.02)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with here.hold("room", "third"):
            assert room.inside == 1


async def test_what_a_process_held_is_given_back_when_it_dies() -> None:
    room = Room()
    with pair(holds={"room": room.enter}) as (here, there):
        for what in ("a", "b"):
            await here.hold("room", what).__aenter__()
        here.close()  # its sockets close, as those of a process that was killed
        await there.ended.wait()
        await asyncio.sleep(0.01)
    assert room.inside == 0


async def test_whoever_asks_one_that_has_died_is_told_so() -> None:
    never = asyncio.Event()
    with pair(asks={"wait": never.wait}) as (here, there):
        asking = asyncio.create_task(here.ask("wait"))
        await asyncio.sleep(0.01)
        there.close()
        with pytest.raises(PeerGone):
            await asking
        with pytest.raises(PeerGone):
            await here.ask("wait")


def every_error(kind: type[AppError] = AppError) -> Iterator[type[AppError]]:
    """Those of a dialect are raised where its requests are answered."""
    for each in kind.__subclasses__():
        if each.__module__ == AppError.__module__:
            yield each
            yield from every_error(each)


ARGUMENTS: dict[type[AppError], tuple[Any, ...]] = {
    errors.StoreReadOnly: ("because",),
    errors.StoreFull: ("because",),
    errors.DigestMismatch: ("sha256:a", "sha256:b"),
    errors.InvalidDigest: (),
    errors.LimitsUnknown: (),
}


@pytest.mark.parametrize("kind", [*every_error()], ids=lambda kind: kind.__name__)
async def test_every_error_arrives_as_what_it_was(kind: type[AppError]) -> None:
    given = ARGUMENTS.get(kind, ("text", 7) if issubclass(kind, errors.RateLimited) else ("text",))
    error = kind(*given)

    async def fail() -> None:
        raise error

    with pair(asks={"fail": fail}) as (here, _), pytest.raises(kind) as caught:
        await here.ask("fail")
    assert type(caught.value) is kind
    assert (str(caught.value), vars(caught.value)) == (str(error), vars(error))


async def test_a_fault_of_the_program_is_told_as_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("oops")

    with pair(asks={"fail": fail}) as (here, _), pytest.raises(EngineFailed, match="oops"):
        await here.ask("fail")
    assert "what another process asked for failed" in caplog.text
