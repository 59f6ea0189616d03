"""What keys may use, counted in memory and in a real Redis."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.access.limiter import Limiter
from app.access.store import Store, open_storage
from app.core.context import Caller, Limits, RequestContext
from app.core.errors import (
    AppError,
    ConcurrencyExceeded,
    Forbidden,
    LimitsUnknown,
    RateLimited,
    RequestRateExceeded,
    TokenRateExceeded,
)
from harness.redis_server import Redis, running_redis
from tests.programs import program
from tests.unit.virtual_time import VirtualLoop, now

GUARD_S = 30.0
HURRY_S, PATIENT_S = 1.5, 15.0
"""A busy machine may let Redis wait; only tests of that are in a hurry."""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Generator[Redis]:
    with running_redis(program("redis-server"), tmp_path_factory.mktemp("redis")) as server:
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
    ctx = RequestContext(caller=who)
    async with limiter.admit(ctx):
        ctx.work.prompt_tokens, ctx.work.output_tokens = prompt, output


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


async def test_no_minute_has_more_requests_than_the_limit_wherever_it_begins() -> None:
    """An estimate from two counted minutes let three through in eight seconds around a minute's edge."""
    for limit, pauses_s in ((1, [0.5]), (2, [7.0, 20.0, 3.0]), (5, [0.1, 11.0])):
        for begins_s in range(0, 60, 7):
            clock = Clock()
            clock.now = begins_s
            limiter, who = Limiter(Store(open_storage()), clock=clock), caller(requests_per_minute=limit)
            entered: list[float] = []
            for pause_s in pauses_s * 60:
                with suppress(RequestRateExceeded):
                    await use(limiter, who)
                    entered.append(clock.now)
                clock.now += pause_s
            assert len(entered) >= limit
            assert all(late - early >= 60 for early, late in zip(entered, entered[limit:], strict=False))


async def test_a_request_refused_for_the_limit_may_come_back_when_it_was_told_to() -> None:
    clock = Clock()
    limiter, who = Limiter(Store(open_storage()), clock=clock), caller(requests_per_minute=2)
    for moment in (0.0, 12.5):
        clock.now = moment
        await use(limiter, who)
    clock.now = 30.0
    error = await refused(limiter, who)
    assert isinstance(error, RequestRateExceeded)
    assert error.retry_after_s == 31
    fewer = await refused(limiter, caller(requests_per_minute=1))
    assert isinstance(fewer, RequestRateExceeded)
    assert fewer.retry_after_s == 43
    clock.now += error.retry_after_s
    await use(limiter, who)
    assert isinstance(await refused(limiter, who), RequestRateExceeded)


async def test_redis_forgets_requests_that_are_a_minute_old_and_no_others(redis: Redis) -> None:
    """Its clock cannot be set, so the moments that it has kept are."""
    store = Store(open_storage(redis.url, PATIENT_S), answer_s=PATIENT_S)
    limiter, who = Limiter(store), caller(requests_per_minute=2)
    storage: Any = store.storage
    redis_client, name = storage.bridge.get_connection(), storage.bridge.prefixed_key("requests/k")
    for ages_s, wait_s in (([61, 60.1], None), ([61, 1], None), ([50, 1], 11), ([200, 59.5, 20], 1)):
        await storage.reset()
        seconds, micros = await redis_client.time()
        moments = [int(seconds * 1e6 + micros - age_s * 1e6) for age_s in ages_s]
        await redis_client.rpush(name, *moments)
        if wait_s is None:
            await use(limiter, who)
            assert 0 < await redis_client.pttl(name) <= 60_000
        else:
            error = await refused(limiter, who)
            assert isinstance(error, RequestRateExceeded)
            assert abs(error.retry_after_s - wait_s) <= 1
    await store.close()


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
    ctx, begun = RequestContext(caller=who), asyncio.Event()

    async def abandoned() -> None:
        async with limiter.admit(ctx):
            ctx.work.prompt_tokens, ctx.work.output_tokens = 4, 3
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(abandoned())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with suppress(ZeroDivisionError):
        async with limiter.admit(ctx := RequestContext(caller=who)):
            ctx.work.output_tokens = 3
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
            await held.enter_async_context(limiter.admit(RequestContext(caller=who)))
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


# Tokens set aside while requests run.


async def test_two_hundred_requests_at_once_stay_within_the_tokens_a_minute(store: Store) -> None:
    """F11: all were let in as long as any tokens were left."""
    limiter, who, used = Limiter(store), caller(tokens_per_minute=100), list[int]()

    async def ask(number: int) -> None:
        ctx = RequestContext(caller=who)
        async with limiter.admit(ctx):
            room, _ = await ctx.reserve(5, 15, exact=True)
            await asyncio.sleep(0.01 * (number % 3))
            ctx.work.prompt_tokens, ctx.work.output_tokens = 5, room
            used.append(5 + room)

    ends = await asyncio.gather(*map(ask, range(200)), return_exceptions=True)
    assert used == [20] * 5
    assert sum(isinstance(end, TokenRateExceeded) for end in ends) == 195
    assert str(await refused(limiter, who)) == "this API key has used up its 100 tokens per minute"


async def test_what_was_not_used_is_free_again_however_a_request_ended(store: Store) -> None:
    limiter, who = Limiter(store), caller(tokens_per_minute=100)

    async def ask(begun: asyncio.Event, fail: asyncio.Event) -> None:
        ctx = RequestContext(caller=who)
        async with limiter.admit(ctx):
            await ctx.reserve(10, 90, exact=True)
            ctx.work.prompt_tokens = 1
            begun.set()
            await fail.wait()
            raise ZeroDivisionError

    for fails in (False, True):
        begun, fail = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(ask(begun, fail))
        await begun.wait()
        with pytest.raises(TokenRateExceeded):
            async with limiter.admit(ctx := RequestContext(caller=who)):
                await ctx.reserve(1, 1, exact=True)
        fail.set() if fails else task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        who = caller(tokens_per_minute=101)  # one more, for the one that was used
    async with limiter.admit(ctx := RequestContext(caller=who)):
        assert (await ctx.reserve(10, 200, exact=False))[0] == 89


async def test_a_turn_that_has_ended_holds_no_tokens_of_the_next(store: Store) -> None:
    """A request of several turns is charged for all of them, and holds back those of the one that runs."""
    limiter, who = Limiter(store), caller(tokens_per_minute=100)
    async with limiter.admit(ctx := RequestContext(caller=who)):
        rooms: list[int] = []
        for _ in range(3):
            room, settle = await ctx.reserve(10, 1000, exact=False)
            rooms.append(room)
            await settle(15)
            ctx.work.prompt_tokens, ctx.work.output_tokens = 10 * len(rooms), 5 * len(rooms)
        assert rooms == [90, 75, 60]
    async with limiter.admit(ctx := RequestContext(caller=who)):
        assert (await ctx.reserve(5, 1000, exact=False))[0] == 50


async def test_turns_at_once_hold_their_tokens_together(store: Store) -> None:
    limiter, who = Limiter(store), caller(tokens_per_minute=100)
    async with limiter.admit(ctx := RequestContext(caller=who)):
        await ctx.reserve(10, 30, exact=True)
        await ctx.reserve(10, 30, exact=True)
        with pytest.raises(TokenRateExceeded):
            await ctx.reserve(10, 30, exact=True)
        ctx.work.prompt_tokens, ctx.work.output_tokens = 20, 20
    async with limiter.admit(ctx := RequestContext(caller=who)):
        assert (await ctx.reserve(5, 1000, exact=False))[0] == 55


async def test_an_answer_of_no_stated_length_takes_what_is_left_if_that_is_worth_it(store: Store) -> None:
    limiter, who = Limiter(store), caller(tokens_per_minute=100)
    rooms: list[int] = []
    for output in (30, 30, 6, 1):
        async with limiter.admit(ctx := RequestContext(caller=who)):
            rooms.append((await ctx.reserve(5, 1000, exact=False))[0])
            ctx.work.prompt_tokens, ctx.work.output_tokens = 5, output
    assert rooms == [95, 60, 25, 14]
    with pytest.raises(TokenRateExceeded) as found:
        async with limiter.admit(ctx := RequestContext(caller=who)):
            await ctx.reserve(5, 1000, exact=False)
    assert "too few are left for this request, which needs 15" in str(found.value)
    async with limiter.admit(ctx := RequestContext(caller=who)):
        assert (await ctx.reserve(5, 3, exact=False))[0] == 3


@pytest.mark.parametrize(("prompt", "room", "exact"), [(101, 1, False), (100, 1, False), (60, 41, True)])
async def test_what_can_never_fit_is_forbidden(store: Store, prompt: int, room: int, exact: bool) -> None:
    limiter = Limiter(store)
    with pytest.raises(Forbidden, match="this API key allows 100 tokens per minute"):
        async with limiter.admit(ctx := RequestContext(caller=caller(tokens_per_minute=100))):
            await ctx.reserve(prompt, room, exact=exact)


async def test_tokens_are_given_back_to_the_minute_that_they_came_from() -> None:
    clock = Clock()
    limiter, who = Limiter(Store(open_storage()), clock=clock), caller(tokens_per_minute=100)
    async with limiter.admit(long := RequestContext(caller=who)):
        await long.reserve(10, 90, exact=True)
        clock.now += 61
        await use(limiter, who, output=70)
        long.work.output_tokens = 20
    async with limiter.admit(ctx := RequestContext(caller=who)):
        assert (await ctx.reserve(1, 100, exact=False))[0] == 29


REQUESTS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 120), st.booleans(), st.integers(0, 5), st.integers(0, 90)),
    max_size=80,
)


@settings(max_examples=80, deadline=None)
@given(REQUESTS)
def test_no_history_goes_over_the_limit_by_more_than_the_errors_of_its_estimates(
    requests: list[tuple[int, int, bool, int, int]],
) -> None:
    """Each request: its prompt, the room it asks for, whether exactly, by how many tokens its prompt turns
    out longer than it was taken for, and how long it runs."""
    limit = 100

    async def history() -> None:
        limiter, who = Limiter(Store(open_storage()), clock=now), caller(tokens_per_minute=limit)
        ledger: Any = limiter._ledger  # type: ignore[reportPrivateUsage]
        errors = 0

        def look() -> None:
            for window in ledger._windows.values():
                assert window.held >= 0
                assert window.used + window.held <= limit + errors

        async def ask(prompt: int, room: int, exact: bool, error: int, lasts_s: int) -> None:
            nonlocal errors
            with suppress(RateLimited, Forbidden):
                async with limiter.admit(ctx := RequestContext(caller=who)):
                    granted, _ = await ctx.reserve(prompt, room, exact=exact)
                    assert granted == room if exact else granted <= room
                    look()
                    await asyncio.sleep(lasts_s)
                    errors += error
                    ctx.work.prompt_tokens, ctx.work.output_tokens = (
                        prompt + error,
                        granted if lasts_s % 2 else 0,
                    )
                look()

        tasks: list[asyncio.Task[None]] = []
        for each in requests:
            tasks.append(asyncio.create_task(ask(*each)))
            await asyncio.sleep(each[4] / 9)
            if each[3] == 5:
                tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        await asyncio.sleep(61)
        async with limiter.admit(ctx := RequestContext(caller=who)):
            assert (await ctx.reserve(1, 99, exact=True))[0] == 99

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(history())


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
    with running_redis(program("redis-server"), tmp_path) as server:
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
            "the limits store is unavailable"
        ]
        clock.now += 6
        await use(limiter, who, output=100)
        assert len(caplog.records) == 1
        async with limiter.admit(RequestContext(caller=who)):
            assert isinstance(await refused(limiter, who), ConcurrencyExceeded)
        server.stop()
        server.start()
        clock.now += 6
        await use(limiter, who, output=100)
        assert isinstance(await refused(limiter, who), TokenRateExceeded)
        assert [record.message for record in caplog.records[1:]] == ["the limits store is available again"]


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
