"""Whose request an engine works on next: turns by key, chosen when a place is free."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import EngineDied, Overloaded
from app.runtime import policy
from app.runtime.policy import Flow, FlowKey
from app.runtime.queue import Turns
from tests.unit.virtual_time import VirtualLoop, advance, settle, virtual


class Site:
    """Requests of several keys before one engine: who is served, in order, and who was turned away."""

    def __init__(self, slots: int, max_tokens: int = 0, spare: int = 0) -> None:
        self.turns = Turns(slots, max_tokens, spare)
        self.served: list[str] = []
        self.numbers: list[int] = []
        self.refused: list[str] = []
        self.most = 0
        self._running = 0

    def ask(self, key: str, *, lasts_s: float = 1, priority: int = 0, tokens: int = 1) -> asyncio.Task[None]:
        return asyncio.create_task(self._ask(key, lasts_s, priority, tokens))

    async def _ask(self, key: str, lasts_s: float, priority: int, tokens: int) -> None:
        try:
            async with self.turns.turn(key, priority, tokens) as turn:
                self.served.append(key)
                self.numbers.append(turn.priority)
                self._running += 1
                self.most = max(self.most, self._running)
                try:
                    await advance(lasts_s / 2)
                    turn.speaks()
                    await advance(lasts_s / 2)
                finally:
                    self._running -= 1
        except (Overloaded, EngineDied) as error:
            self.refused.append(f"{key} {type(error).__name__}")


@virtual
async def test_one_key_is_served_in_order_of_arrival() -> None:
    site = Site(2)
    asked = [site.ask("", tokens=number) for number in range(10)]
    await asyncio.gather(*asked)
    assert site.numbers == sorted(site.numbers)
    assert len(set(site.numbers)) == 10
    assert (site.most, site.turns.waiting) == (2, 0)


@virtual
async def test_a_key_that_asks_while_another_floods_is_served_next() -> None:
    site = Site(4)
    flood = [site.ask("flood") for _ in range(500)]
    await advance(10.1)
    before = len(site.served)
    await site.ask("other")
    assert site.served[before:].index("other") < 4
    for each in flood:
        each.cancel()
    await settle()
    assert site.turns.waiting == 0


@virtual
async def test_spare_places_are_for_keys_that_have_none() -> None:
    site = Site(4, spare=1)
    flood = [site.ask("flood", lasts_s=100) for _ in range(10)]
    await settle()
    assert site.served == ["flood"] * 3
    asked = [site.ask("other"), site.ask("other")]
    await settle()
    assert site.served == ["flood"] * 3 + ["other"]
    await asyncio.gather(*asked)
    assert site.served == ["flood"] * 3 + ["other"] * 2
    await asyncio.gather(*flood)
    assert site.most == 4


@virtual
async def test_while_another_key_asks_one_keys_prompts_are_read_a_few_at_a_time() -> None:
    """One step of the engine reads all the prompts that it has, and another key's would wait for its end."""
    site = Site(16)
    await site.ask("other", lasts_s=0.1)
    flood = [site.ask("flood", lasts_s=2) for _ in range(40)]
    await settle()
    assert site.served.count("flood") == 2
    await advance(1)
    assert site.served.count("flood") == 4
    await advance(20)
    alone = [site.ask("flood", lasts_s=2) for _ in range(40)]
    await settle()
    assert site.served.count("flood") >= 40 + 16 - 2
    await asyncio.gather(*flood, *alone)


@virtual
async def test_keys_that_asked_long_ago_are_forgotten() -> None:
    """Else each choice would look at every key that there has ever been."""
    site = Site(2)
    for number in range(50):
        await asyncio.gather(site.ask(f"key {number}"))
        await advance(1)
    assert len(site.turns._asked) < 12  # type: ignore[reportPrivateUsage]
    assert len(site.served) == 50


@virtual
async def test_keys_that_flood_take_turns_and_a_late_one_is_owed_nothing() -> None:
    site = Site(1)
    asked = [site.ask("a") for _ in range(40)]
    await advance(10.1)
    asked += [site.ask("b") for _ in range(20)]
    await asyncio.gather(*asked)
    contested = site.served[11:51]
    assert Counter(contested) == {"a": 20, "b": 20}
    assert all(contested[at : at + 4].count("a") == 2 for at in range(0, 40, 4))


@virtual
async def test_a_better_priority_goes_first_whoever_asks() -> None:
    site = Site(1)
    asked = [site.ask("busy"), *(site.ask("late", priority=5) for _ in range(3))]
    await settle()
    asked += [site.ask("soon", priority=-5) for _ in range(3)]
    await asyncio.gather(*asked)
    assert site.served == ["busy", *["soon"] * 3, *["late"] * 3]


@virtual
async def test_where_no_place_is_short_nobody_waits() -> None:
    site = Site(0)
    asked = [site.ask("a") for _ in range(100)]
    await advance(0.1)
    assert len(site.served) == 100
    await asyncio.gather(*asked)


@virtual
async def test_in_the_engine_a_new_key_is_before_what_another_has_there_without_output() -> None:
    """Where the engine puts off what it was given, its own queue is in order of these numbers."""
    site = Site(100)
    flood = [site.ask("flood") for _ in range(90)]
    await settle()
    other = site.ask("other")
    await settle()
    assert sum(number < site.numbers[-1] for number in site.numbers[:-1]) <= 1
    await asyncio.gather(*flood, other)


@virtual
async def test_a_queue_has_a_bound_of_tokens_and_always_takes_one() -> None:
    site = Site(1, max_tokens=10)
    asked = [site.ask(key, tokens=tokens) for key, tokens in (("a", 5), ("b", 99), ("c", 1))]
    await settle()
    assert site.refused == ["c Overloaded"]
    await asyncio.gather(*asked)
    await site.ask("d", tokens=1)
    assert site.served == ["a", "b", "d"]


@virtual
async def test_a_full_queue_gives_a_place_of_the_key_that_has_most_to_one_that_has_fewer() -> None:
    site = Site(1)
    asked = [site.ask("flood") for _ in range(4)] + [site.ask("other")]
    await settle()
    assert site.turns.displace("other", 0)
    asked.append(site.ask("other"))
    await settle()
    assert site.refused == ["flood Overloaded"]
    assert not site.turns.displace("other", 0)
    assert not site.turns.displace("flood", 0)
    assert not site.turns.displace("third", 1)  # A worse priority takes no place of a better one.
    await asyncio.gather(*asked)
    assert Counter(site.served) == {"flood": 3, "other": 2}


@virtual
async def test_the_end_of_the_engine_ends_those_that_wait() -> None:
    site = Site(1)
    asked = [site.ask("a"), site.ask("b"), site.ask("c")]
    await settle()
    site.turns.close()
    await asyncio.gather(*asked, site.ask("d"))
    assert site.refused == ["b EngineDied", "c EngineDied", "d EngineDied"]


@pytest.mark.parametrize("leave", ["before", "with", "after"])
@virtual
async def test_a_client_that_leaves_around_its_turn_leaks_no_place(leave: str) -> None:
    site = Site(1)
    first, second = site.ask("a"), site.ask("a")
    await settle()
    if leave == "after":
        await first
        await settle()
    elif leave == "with":
        first.cancel()
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await site.ask("b")
    assert (site.served[-1], site.turns.waiting) == ("b", 0)


Step = tuple[str, int, int, float, bool]
STEPS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(-1, 1),
        st.integers(1, 50),
        st.floats(0.1, 3),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(1, 4), st.integers(0, 200), st.integers(0, 1))
def test_whatever_happens_no_place_is_lost_and_none_is_given_twice(
    steps: list[Step], slots: int, max_tokens: int, spare: int
) -> None:
    spare = min(spare, slots - 1)

    async def history() -> None:
        site = Site(slots, max_tokens, spare)
        asked: list[asyncio.Task[None]] = []
        for key, priority, tokens, lasts_s, leaves in steps:
            asked.append(site.ask(key, lasts_s=lasts_s, priority=priority, tokens=tokens))
            await advance(lasts_s / 4)
            if leaves:
                asked[len(asked) // 2].cancel()
            assert site.most or not site.turns.waiting
        await asyncio.gather(*asked, return_exceptions=True)
        assert site.most <= slots
        assert site.turns.waiting == 0
        whole = [site.ask(f"z{number}") for number in range(slots)]
        await advance(0.1)
        assert len(set(site.served[-slots:]) & {f"z{number}" for number in range(slots)}) == slots
        await asyncio.gather(*whole)

    run(history)


def run(history: Callable[[], object]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(history())  # type: ignore[arg-type]


# The decisions.


def test_the_choice_is_by_priority_then_turn_then_arrival() -> None:
    flows = [
        Flow(FlowKey(0, "a"), 4, 1),
        Flow(FlowKey(0, "b"), 3, 9),
        Flow(FlowKey(1, "c"), 0, 0),
        Flow(FlowKey(0, "d"), 3, 2),
    ]
    order: list[str] = []
    while flows:
        chosen = policy.next_flow(flows)
        order.append(chosen.key_id)
        flows = [each for each in flows if each.key != chosen]
    assert order == ["d", "b", "a", "c"]


@given(st.integers(-1000, 1000), st.integers(-1000, 1000), st.integers(0, 1 << 39), st.integers(0, 1 << 39))
def test_an_engines_number_keeps_priorities_apart_and_fits_it(a: int, b: int, m: int, n: int) -> None:
    first, second = policy.engine_priority(a, m), policy.engine_priority(b, n)
    assert (first < second) == ((a, m) < (b, n))
    assert abs(first) < 1 << 62
