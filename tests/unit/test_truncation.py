"""Which history is kept: what a naive search finds, for work that grows no faster than the history."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import InvalidRequest
from app.core.request import Message, PastToolCall
from app.core.weight import weight
from app.prompt.truncation import fit
from tests.unit.growth import least_cpu_s


class Counter:
    """So many tokens a message and one a word, however long that is; remembers what it rendered."""

    def __init__(self, each: int = 4, *, alternating: bool = False) -> None:
        self.rendered: list[tuple[Message, ...]] = []
        self.work = 0
        self._each = each
        self._alternating = alternating

    async def __call__(self, messages: Sequence[Message]) -> int:
        self.rendered.append(tuple(messages))
        self.work += sum(weight(message) for message in messages)
        return self.tokens(messages)

    def tokens(self, messages: Sequence[Message]) -> int:
        if self._alternating:
            spoken = [message.role for message in messages if message.role != "system"]
            if spoken != [("user", "assistant")[at % 2] for at in range(len(spoken))]:
                raise InvalidRequest("roles must alternate")
        return sum(self._each + message.text.count(" ") for message in messages)


def left_of(messages: Sequence[Message], cut: int) -> tuple[Message, ...]:
    return (*(each for each in messages[:cut] if each.role == "system"), *messages[cut:])


def naive(
    messages: Sequence[Message], window: int, counter: Counter, cuts: Sequence[int]
) -> tuple[Message, ...]:
    """The least cut that fits, found by trying all."""
    histories = [left_of(messages, cut) for cut in cuts]
    return next((each for each in histories if counter.tokens(each) <= window), histories[-1])


TEXTS = st.one_of(
    st.just(""),
    st.integers(1, 40).map(lambda words: "a " * words),
    st.integers(1, 9).map(lambda words: "long" * 500 + " " * words),
    st.integers(100, 300).map(lambda words: " " * words),
)
HISTORIES = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "user", "assistant", "tool"]), TEXTS), max_size=40
)


@pytest.mark.point(154)
@given(messages=HISTORIES, window=st.integers(1, 400), each=st.sampled_from([0, 1, 4]))
@settings(max_examples=400, deadline=None)
async def test_the_history_is_the_one_that_trying_every_cut_finds(
    messages: list[Message], window: int, each: int
) -> None:
    counter = Counter(each)
    found = await fit(messages, window, counter)
    if messages:
        assert found == naive(messages, window, counter, range(len(messages)))
    if counter.tokens(found) <= window and len(messages) > 1:
        assert [one for one in counter.rendered if counter.tokens(one) <= window][-1] == found


@pytest.mark.point(154)
@given(
    texts=st.lists(TEXTS, min_size=2, max_size=40),
    systems=st.sets(st.integers(0, 40), max_size=3),
    window=st.integers(1, 400),
)
@settings(max_examples=300, deadline=None)
async def test_a_template_that_wants_whole_exchanges_loses_whole_ones(
    texts: list[str], systems: set[int], window: int
) -> None:
    messages = [Message.of(("user", "assistant")[at % 2], text) for at, text in enumerate(texts)]
    for at in sorted((at for at in systems if at < len(texts)), reverse=True):
        messages.insert(at, Message.of("system", "s "))
    counter = Counter(alternating=True)
    users = [at for at, message in enumerate(messages) if at and message.role == "user"]
    try:
        expected = naive(messages, window, counter, [0, *(users or [len(messages) - 1])])
        tokens = counter.tokens(expected)
    except InvalidRequest:
        with pytest.raises(InvalidRequest):
            counter.tokens(await fit(messages, window, counter))
        return
    found = await fit(messages, window, counter)
    assert counter.tokens(found) == tokens
    assert [each for each in found if each.role != "system"] == [
        each for each in expected if each.role != "system"
    ]


@pytest.mark.parametrize(
    "message",
    [Message.of(""), Message.of("user", "hello " * 20), Message.of("system"), Message.of("user", "x" * 9000)],
)
def test_work_grows_no_faster_than_the_history(message: Message) -> None:
    """F1: 200,000 empty messages rendered some eighteen times take all memory."""
    spent: list[float] = []
    for count in (20_000, 40_000):
        counter = Counter()
        messages = [message] * count
        asyncio.run(fit(messages, 4096, counter))
        assert counter.work <= max(24 * 8 * 4096, 2 * count * weight(message))
        assert len(counter.rendered) <= 24
        spent.append(least_cpu_s(lambda: asyncio.run(fit(messages, 4096, Counter()))))  # noqa: B023
    assert spent[1] < 3 * spent[0] + 0.05
    assert spent[1] < 0.5


async def test_a_giant_in_the_middle_is_rendered_once_or_twice() -> None:
    counter = Counter(each=1)
    talk = [Message.of("user", "word " * 20)] * 300
    giant = Message.of("user", "word " * 1_000_000)
    assert len(await fit([*talk, giant, *talk[:50]], 4096, counter)) == 50
    assert sum(giant in each for each in counter.rendered) <= 2


@pytest.mark.parametrize("seed", range(3))
async def test_a_history_that_fits_is_rendered_once(seed: int) -> None:
    source = random.Random(seed)
    messages = [Message.of("user", "word " * source.randrange(9)) for _ in range(100)]
    counter = Counter()
    assert await fit(messages, 4096, counter) == tuple(messages)
    assert len(counter.rendered) == 1


def test_what_a_message_weighs() -> None:
    plain = weight(Message.of("user", "abc", thinking="de"))
    assert plain - weight(Message.of("user")) == 5
    arguments = {"path": "x" * 100, "lines": [{"a": "y" * 50}, 1, None]}
    called = Message.of("assistant", tool_calls=(PastToolCall("edit", arguments),))
    assert weight(called) > 150
