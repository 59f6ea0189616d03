"""Which messages a prompt is made of, and which are left out when they do not fit."""

from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidRequest
from app.core.model import ModelName
from app.core.request import CompletionPrompt, Message
from app.prompt.assembly import (
    chat_messages,
    completion_messages,
    forgets_thinking,
    mark_images,
    without_past_thinking,
)
from app.prompt.truncation import cut_middle, fit
from tests.unit.growth import least_cpu_s

SYSTEM = Message.of("system", "SYS")
ASKED_SYSTEM = Message.of("system", "REQ")
PRESET = (Message.of("user", "U0"), Message.of("assistant", "A0"))
USER = Message.of("user", "hi")


def texts(messages: Sequence[Message]) -> list[str]:
    return [message.text for message in messages]


@pytest.mark.point(136)
def test_the_model_s_system_message_comes_first() -> None:
    assert texts(chat_messages("SYS", PRESET, [USER])) == ["SYS", "U0", "A0", "hi"]
    assert chat_messages("", (), [USER]) == (USER,)


@pytest.mark.point(137)
def test_only_a_leading_system_message_replaces_the_model_s() -> None:
    assert texts(chat_messages("SYS", (), [ASKED_SYSTEM, USER])) == ["REQ", "hi"]
    assert texts(chat_messages("SYS", (), [USER, ASKED_SYSTEM])) == ["SYS", "hi", "REQ"]


@pytest.mark.point(139)
def test_the_model_s_messages_come_before_the_request_s_system_message() -> None:
    assert texts(chat_messages("SYS", PRESET, [ASKED_SYSTEM, USER])) == ["U0", "A0", "REQ", "hi"]


@pytest.mark.point(77, 78, 81)
@pytest.mark.parametrize(("system", "first"), [("", "SYS"), ("OVR", "OVR")])
def test_a_completion_s_system_text_replaces_the_model_s_only_if_there_is_any(
    system: str, first: str
) -> None:
    asked = CompletionPrompt("hi", system=system, images=(b"p",))
    found = completion_messages("SYS", PRESET, asked)
    assert texts(found) == [first, "U0", "A0", "hi"]
    assert found[-1] == Message.of("user", "hi", images=(b"p",))


@pytest.mark.point(82)
@pytest.mark.parametrize("context", [(), (120,)])
def test_a_context_stands_for_the_model_s_messages(context: tuple[int, ...]) -> None:
    found = completion_messages("SYS", PRESET, CompletionPrompt("hi", context=context))
    assert texts(found) == ["SYS", "hi"]


@pytest.mark.parametrize(
    ("name", "family", "forgets"),
    [
        ("mine", "qwen3", True),
        ("deepseek-r1", "qwen2", True),
        ("qwen3", "llama", False),
        ("mine", "qwen3moe", False),
    ],
)
def test_which_models_forget_their_thinking(name: str, family: str, forgets: bool) -> None:
    assert forgets_thinking(ModelName(name), family) is forgets


def test_thinking_is_cut_from_answers_before_the_last_question() -> None:
    thought = "<think>hmm</think>\n\nyes"
    history = [
        Message.of("user", "<think>mine</think>kept"),
        Message.of("assistant", f" {thought} </think>"),
        Message.of("assistant", "no <think>tag first</think>"),
        Message.of("assistant", "<think>never closed"),
        Message.of("user", "again"),
        Message.of("assistant", thought),
    ]
    assert texts(without_past_thinking(history)) == [
        "<think>mine</think>kept",
        "yes </think>",
        "no <think>tag first</think>",
        "",
        "again",
        thought,
    ]


def test_pictures_are_numbered_over_all_messages() -> None:
    asked = [
        Message.of("user", "a [img] b", images=(b"1", b"2")),
        Message.of("user", "c", images=(b"3",)),
        USER,
    ]
    assert texts(mark_images(asked)) == ["[img-1]a [img-0] b", "[img-2]c", "hi"]


@given(
    content=st.lists(st.sampled_from(["[img]", "a", "[img", "[", "]"]), max_size=12).map("".join),
    count=st.integers(0, 6),
)
def test_marks_are_replaced_as_one_picture_after_the_other_would(content: str, count: int) -> None:
    prefix, expected = "", content
    for number in range(count):
        if "[img]" in expected:
            expected = expected.replace("[img]", f"[img-{number}]", 1)
        else:
            prefix += f"[img-{number}]"
    (found,) = mark_images([Message.of("user", content, images=(b"p",) * count)])
    assert found.text == prefix + expected


def test_marks_times_pictures_cost_no_more_than_their_sum() -> None:
    """F15: 30,000 pictures and as many marks took minutes of a thread."""
    spent: list[float] = []
    for count in (20_000, 40_000):
        asked = [Message.of("user", "[img]" * count, images=(b"",) * count)]
        spent.append(least_cpu_s(partial(mark_images, asked)))
    assert spent[1] < 3 * spent[0] + 0.05


class Counter:
    """One token a character; remembers how often it was asked."""

    def __init__(self, *, alternating: bool = False) -> None:
        self.calls = 0
        self._alternating = alternating

    async def __call__(self, messages: Sequence[Message]) -> int:
        self.calls += 1
        spoken = [message for message in messages if message.role != "system"]
        if self._alternating and spoken[0].role != "user":
            raise InvalidRequest("Conversation roles must alternate")
        return sum(len(message.text) for message in messages)


def conversation(rounds: int) -> list[Message]:
    return [Message.of(role, f"{role[0]}{at:08}") for at in range(rounds) for role in ("user", "assistant")]


@pytest.mark.point(155)
async def test_nothing_is_dropped_from_what_fits() -> None:
    count = Counter()
    messages = conversation(4)
    assert await fit(messages, 8 * 9, count) == tuple(messages)
    assert count.calls == 1


@pytest.mark.point(154)
@pytest.mark.parametrize("room", range(1, 12))
async def test_the_oldest_messages_go_and_no_more_than_must(room: int) -> None:
    messages = conversation(5)
    kept = await fit(messages, room * 9, Counter())
    assert kept == tuple(messages[max(10 - room, 0) :])


@pytest.mark.point(154)
async def test_system_messages_are_kept_and_come_first() -> None:
    late = Message.of("system", "late")
    messages = [SYSTEM, *conversation(2), late, *conversation(2)]
    assert await fit(messages, 3 + 4 + 9, Counter()) == (SYSTEM, late, messages[-1])
    assert await fit(messages, 3 + 4 + 4 * 9, Counter()) == (SYSTEM, late, *messages[-4:])


@pytest.mark.point(154)
async def test_the_last_message_stays_even_if_it_does_not_fit() -> None:
    messages = [SYSTEM, *conversation(2), Message.of("user", "x" * 100)]
    assert await fit(messages, 50, Counter()) == (SYSTEM, messages[-1])
    assert await fit([messages[-1]], 50, Counter()) == (messages[-1],)


async def test_few_renderings_find_the_cut() -> None:
    count = Counter()
    await fit(conversation(500), 100 * 9, count)
    assert count.calls <= 11


async def test_a_template_that_wants_whole_exchanges_gets_them() -> None:
    messages = [SYSTEM, *conversation(5), Message.of("user", "last")]
    kept = await fit(messages, 3 + 3 * 9 + 4, Counter(alternating=True))
    assert kept == (SYSTEM, *messages[-3:])


async def test_a_conversation_the_template_refuses_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="alternate"):
        await fit([Message.of("assistant", "a"), USER], 100, Counter(alternating=True))


@pytest.mark.point(156)
@pytest.mark.parametrize(
    ("length", "num_keep", "kept"),
    [
        (99, 4, [*range(99)]),
        (100, 4, [*range(4), *range(52, 100)]),
        (1000, 4, [*range(4), *range(952, 1000)]),
        (1000, 0, [*range(950, 1000)]),
        (1000, 90, [*range(90), *range(995, 1000)]),
        (1000, 500, [*range(99)]),
        (1000, -1, [*range(99)]),
    ],
)
def test_a_prompt_loses_its_middle_and_leaves_half_of_the_room(
    length: int, num_keep: int, kept: list[int]
) -> None:
    assert cut_middle(range(length), 100, num_keep) == kept
