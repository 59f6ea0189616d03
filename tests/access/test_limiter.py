"""What keys may use, counted in memory and in a real Redis."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from app.access.limiter import Limiter
from app.access.store import Store, open_storage
from app.core.call import Call, Caller, Limits
from app.core.errors import (
    AppError,
    ConcurrencyExceeded,
    LimitsUnknown,
    RateLimited,
    RequestRateExceeded,
    TokenRateExceeded,
)
from tests.redis_server import Redis, running_redis

GUARD_S = 30.0
HURRY_S, PATIENT_S = 1.5, 15.0
"""A busy machine may let Redis wait; only tests of that are in a hurry."""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Generator[Redis]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncGenerator[Store]:
    url = request.getfixturevalue("redis").url if request.param == "redis" else ""
    opened = Store(open_storage(url, PATIENT_S), answer_s=PATIENT_S)
    await opened.storage.reset()
    yield opened
    await opened.close()


def caller(key_id: str = "k", **limits: Any) -> Caller:
    return Caller(key_id=key_id, limits=Limits(**limits))


async def use(limiter: Limiter, who: Caller, *, prompt: int = 0, output: int = 0) -> None:
    """A request that takes so many tokens."""
    call = Call(caller=who)
    async with limiter.admit(call):
        call.prompt_tokens, call.output_tokens = prompt, output


async def refused(limiter: Limiter, who: Caller) -> AppError:
    with pytest.raises(AppError) as found:
        await use(limiter, who)
    return found.value


@pytest.mark.row("A1")
async def test_requests_a_minute(store: Store) -> None:
    limiter, who = Limiter(store), caller(requests_per_minute=3)
    for _ in range(3):
        await use(limiter, who)
    error = await refused(limiter, who)
    assert isinstance(error, RequestRateExceeded)
    assert str(error) == "this API key has used up its 3 requests per minute"
    assert 1 <= error.retry_after_s <= 61
    await use(limiter, caller("another", requests_per_minute=3))


async def test_tokens_a_minute_count_prompt_and_output_once_they_are_known(store: Store) -> None:
    limiter, who = Limiter(store), caller(tokens_per_minute=100)
    await use(limiter, who, prompt=60, output=39)
    await use(limiter, who, output=500)
    error = await refused(limiter, who)
    assert isinstance(error, TokenRateExceeded)
    assert str(error) == "this API key has used up its 100 tokens per minute"
    assert 1 <= error.retry_after_s <= 61
    await use(limiter, caller("another", tokens_per_minute=100), output=1)


async def test_a_request_that_fails_or_is_left_is_charged_for_what_it_used(store: Store) -> None:
    limiter, who = Limiter(store), caller(tokens_per_minute=10, concurrent_requests=1)
    call, begun = Call(caller=who), asyncio.Event()

    async def abandoned() -> None:
        async with limiter.admit(call):
            call.prompt_tokens, call.output_tokens = 4, 3
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(abandoned())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with suppress(ZeroDivisionError):
        async with limiter.admit(call := Call(caller=who)):
            call.output_tokens = 3
            raise ZeroDivisionError
    assert isinstance(await refused(limiter, who), TokenRateExceeded)


async def test_a_request_refused_for_its_tokens_is_not_counted_as_one(store: Store) -> None:
    limiter = Limiter(store)
    await use(limiter, caller(tokens_per_minute=5), output=5)
    for _ in range(3):
        assert isinstance(
            await refused(limiter, caller(tokens_per_minute=5, requests_per_minute=1)), TokenRateExceeded
        )
    await use(limiter, caller(requests_per_minute=1))


async def test_requests_at_once(store: Store) -> None:
    limiter, who = Limiter(store), caller(concurrent_requests=2, requests_per_minute=3)
    async with AsyncExitStack() as held:
        for _ in range(2):
            await held.enter_async_context(limiter.admit(Call(caller=who)))
        for _ in range(3):
            error = await refused(limiter, who)
            assert isinstance(error, ConcurrencyExceeded)
            assert error.retry_after_s == 1
        await use(limiter, caller("another", concurrent_requests=1))
    await use(limiter, who)
    assert isinstance(await refused(limiter, who), RequestRateExceeded)


async def test_a_key_without_limits_is_never_looked_up() -> None:
    limiter = Limiter(Store(open_storage("redis://127.0.0.1:1"), on_failure=lambda: pytest.fail("asked")))
    for _ in range(3):
        await use(limiter, Caller(key_id="free"), output=1000)


async def test_a_limit_reached_by_many_at_once_lets_no_more_through_than_it_says(store: Store) -> None:
    limiter, who = Limiter(store), caller(requests_per_minute=5)
    ends = await asyncio.gather(*(use(limiter, who) for _ in range(20)), return_exceptions=True)
    assert [end for end in ends if end is None] == [None] * 5
    assert sum(isinstance(end, RateLimited) for end in ends) == 15


async def test_replicas_with_one_redis_share_the_counts(redis: Redis) -> None:
    stores = [Store(open_storage(redis.url, PATIENT_S), answer_s=PATIENT_S) for _ in range(2)]
    await stores[0].storage.reset()
    first, second = (Limiter(store) for store in stores)
    who = caller(requests_per_minute=2, tokens_per_minute=50)
    await use(first, who, output=1)
    await use(second, who, output=1)
    assert isinstance(await refused(first, who), RequestRateExceeded)
    heavy = caller(tokens_per_minute=50)
    await use(second, heavy, output=60)
    assert isinstance(await refused(first, heavy), TokenRateExceeded)
    for store in stores:
        await store.close()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def unreliable(
    tmp_path: Path, fail_open: bool
) -> AsyncGenerator[tuple[Redis, Limiter, list[int], Clock]]:
    """A Redis, a limiter that uses it, the failures it counted and the clock by which it tries again."""
    failures, clock = list[int](), Clock()
    with running_redis(tmp_path) as server:
        store = Store(
            open_storage(server.url, HURRY_S),
            answer_s=HURRY_S,
            retry_s=5,
            on_failure=lambda: failures.append(1),
            clock=clock,
        )
        yield server, Limiter(store, fail_open=fail_open), failures, clock
        await store.close()


@pytest.mark.parametrize("break_it", [Redis.stop, Redis.hang], ids=["gone", "hung"])
async def test_a_redis_that_is_lost_lets_requests_pass_counted_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, break_it: Callable[[Redis], None]
) -> None:
    caplog.set_level(logging.WARNING, "caravan")
    who = caller(requests_per_minute=2, tokens_per_minute=10, concurrent_requests=1)
    async with unreliable(tmp_path, True) as (server, limiter, failures, clock), asyncio.timeout(GUARD_S):
        await use(limiter, who)
        break_it(server)
        for _ in range(20):
            await use(limiter, who, output=100)
        assert len(failures) >= 20
        assert [record.message.split(":")[0] for record in caplog.records] == [
            "the store of the limits does not answer"
        ]
        clock.now += 6
        await use(limiter, who, output=100)
        assert len(caplog.records) == 1
        async with limiter.admit(Call(caller=who)):
            assert isinstance(await refused(limiter, who), ConcurrencyExceeded)
        server.stop()
        server.start()
        clock.now += 6
        await use(limiter, who, output=100)
        assert isinstance(await refused(limiter, who), TokenRateExceeded)
        assert [record.message for record in caplog.records[1:]] == ["the store of the limits answers again"]


async def test_a_redis_that_is_lost_closes_the_server_where_that_is_wanted(tmp_path: Path) -> None:
    who = caller(requests_per_minute=100)
    async with unreliable(tmp_path, False) as (server, limiter, failures, clock), asyncio.timeout(GUARD_S):
        await use(limiter, who)
        server.stop()
        for _ in range(3):
            assert isinstance(await refused(limiter, who), LimitsUnknown)
        assert len(failures) == 3
        await use(limiter, Caller(key_id="free"))
        server.start()
        clock.now += 6
        await use(limiter, who)
