"""What a model sees of a long or strange conversation (docs/reference 4.5 and 7.4), on the real engine."""

import base64
import io
import re
from typing import Any

import httpx
import pytest
from PIL import Image

from harness.models.catalogue import GREETING, PARIS, WEATHER, assistant, case, system, tool_result, user
from tests.e2e.chats import GREEDY, ask, assert_refused, chat, rendered

pytestmark = pytest.mark.engine

TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)
WINDOW = 256
FILLING = "word " * 8
HISTORY = [
    each for number in range(40) for each in (user(f"Q{number} {FILLING}"), assistant(f"A{number} {FILLING}"))
]
LAST = user("LAST")
ROUTES = ["chat", "generate"]


def seen(client: httpx.Client, *messages: Any, model: str = "tool", **fields: Any) -> list[str]:
    """The marked messages that the model would read, in their order."""
    options = {"num_ctx": WINDOW, **fields.pop("options", {})}
    shown = rendered(client, model, messages, options=options, **fields)
    return re.findall(r"\b(?:S|S2|Q\d+|A\d+|LAST)\b", shown)


def picture() -> str:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


# plain: the window. Its template puts a system prompt of its own first where there is none.


@pytest.mark.point(154)
@pytest.mark.row("A3")
@pytest.mark.parametrize("model", ["plain", "tool"])
def test_the_oldest_messages_are_dropped(client: httpx.Client, model: str) -> None:
    first, *kept, last = seen(client, system("S"), *HISTORY, LAST, model=model)
    assert (first, last) == ("S", "LAST")
    whole = [message["content"].split()[0] for message in HISTORY]
    assert 0 < len(kept) < len(whole)
    assert kept == whole[-len(kept) :], "the newest, without a gap"


@pytest.mark.point(154)
@pytest.mark.parametrize("model", ["plain", "tool"])
def test_no_more_is_dropped_than_must_be(client: httpx.Client, model: str) -> None:
    """The answer tells how long the prompt was: within the window, and too long with one message more."""
    messages = [system("S"), *HISTORY, LAST]
    kept = seen(client, *messages, model=model)
    options = {"num_ctx": WINDOW, "num_predict": 1}
    used = ask(client, model, messages, options=options).parts[-1]["prompt_eval_count"]
    assert used <= WINDOW
    more = [system("S"), *HISTORY[-len(kept) + 1 :], LAST]
    longer = ask(client, model, more, options={"num_predict": 1}).parts[-1]["prompt_eval_count"]
    assert longer > WINDOW


@pytest.mark.point(154)
def test_every_system_message_is_kept_and_comes_first(client: httpx.Client) -> None:
    found = seen(client, system("S"), *HISTORY[:20], system("S2"), *HISTORY[20:], LAST, model="plain")
    assert found[:2] == ["S", "S2"]
    assert found[-1] == "LAST"
    assert seen(client, *HISTORY, LAST, system("S2"), model="plain")[-1] == "S2", "the last stays in place"


@pytest.mark.point(154)
def test_the_system_prompt_of_a_model_is_kept_too(client: httpx.Client) -> None:
    shown = rendered(client, "msgs", [*HISTORY, LAST], options={"num_ctx": WINDOW})
    assert shown.startswith("<|im_start|>system\nMSYS<|im_end|>\n")
    assert "U0" not in shown
    assert "Q0 " not in shown
    assert shown.endswith("LAST<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.point(155)
@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_without_truncation_nothing_is_dropped(client: httpx.Client, shift: bool, stream: bool) -> None:
    fields: dict[str, Any] = {"truncate": False, "shift": shift, "stream": stream}
    answer = chat(client, "plain", [*HISTORY, LAST], options={"num_ctx": WINDOW}, **fields)
    assert_refused(answer, TOO_LONG)
    options = {"num_ctx": 2048}
    assert len(seen(client, *HISTORY, LAST, model="plain", options=options, **fields)) == len(HISTORY) + 1


@pytest.mark.point(156)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("route", ROUTES)
def test_a_prompt_over_the_window_that_may_not_be_cut(client: httpx.Client, route: str, stream: bool) -> None:
    content = "word " * (WINDOW + 50)
    sent = {"messages": [user(content)]} if route == "chat" else {"prompt": content}
    fields = {"model": "plain", "options": {"num_ctx": WINDOW}, "shift": False, "stream": stream}
    assert_refused(client.post(f"/api/{route}", json={**fields, **sent}), TOO_LONG)


@pytest.mark.point(156)
def test_a_prompt_over_the_window_loses_its_middle(client: httpx.Client) -> None:
    content = "word " * (WINDOW + 50)
    options = {"num_ctx": WINDOW, "num_predict": 2}
    found = ask(client, "plain", [system("S"), user(content)], options=options)
    assert WINDOW // 3 < found.parts[-1]["prompt_eval_count"] < WINDOW
    assert found.tokens in (1, 2)


def test_a_prompt_over_the_window_of_the_engine(client: httpx.Client) -> None:
    """`tool` has a window of 4096 whatever is asked for."""
    content = "word " * 5000
    options = {"num_ctx": 10**6, "num_predict": 1}
    assert_refused(chat(client, "tool", [user(content)], options=options, shift=False), TOO_LONG)
    last = ask(client, "tool", [user(content)], options=options).parts[-1]
    assert last["prompt_eval_count"] < 4096


def test_an_answer_ends_at_the_window(client: httpx.Client) -> None:
    known = case("qwen3", "story")
    options = GREEDY | {"num_ctx": 100}
    found = ask(client, "tool", known.messages, think=False, options=options)
    last = found.parts[-1]
    assert (last["done_reason"], last["prompt_eval_count"] + last["eval_count"]) == ("length", 100)
    assert known.content.startswith(found.content)


# An answer to go on with.


@pytest.mark.point(153)
@pytest.mark.parametrize("stream", [True, False])
def test_a_model_goes_on_with_its_answer(client: httpx.Client, stream: bool) -> None:
    messages = [user("Count."), assistant("1, 2, 3, 4,")]
    options = {"num_predict": 3, "temperature": 0}
    found = ask(client, "plain", messages, stream=stream, options=options)
    assert found.content.startswith(" 5")
    assert rendered(client, "plain", messages).endswith("<|im_start|>assistant\n1, 2, 3, 4,")


@pytest.mark.point(153)
@pytest.mark.parametrize(
    "content", ["Its name ", " Its name", "Its name\n", "\n", " ", "Ümläut 🧀", "{{ x }} <|"]
)
@pytest.mark.parametrize("model", ["plain", "tool"])
def test_the_beginning_of_an_answer_is_not_touched(client: httpx.Client, model: str, content: str) -> None:
    messages = [user("hi"), assistant(content)]
    assert rendered(client, model, messages).endswith(f"<|im_start|>assistant\n{content}")
    options = {"num_predict": 1}
    assert ask(client, model, messages, think=False, options=options).tokens == 1


@pytest.mark.point(153)
def test_a_conversation_that_is_only_the_beginning_of_an_answer(client: httpx.Client) -> None:
    assert rendered(client, "tool", [assistant("Hello")]).endswith("<|im_start|>assistant\nHello")


@pytest.mark.point(153)
def test_the_beginning_of_an_answer_stays_when_its_history_is_cut(client: httpx.Client) -> None:
    shown = rendered(client, "tool", [*HISTORY, LAST, assistant("So")], options={"num_ctx": WINDOW})
    assert shown.endswith("LAST<|im_end|>\n<|im_start|>assistant\nSo")
    assert "Q0 " not in shown


@pytest.mark.point(153)
def test_an_answer_is_gone_on_with_although_tools_are_at_hand(client: httpx.Client) -> None:
    known = case("qwen3", "prefill")
    found = ask(client, "tool", known.messages, tools=[WEATHER], options=GREEDY | {"num_predict": 6})
    assert (found.thinking, found.tokens) == ("", 6)
    assert found.content


# Messages of every kind.


@pytest.mark.row("A3")
@pytest.mark.parametrize("model", ["plain", "tool"])
@pytest.mark.parametrize("images", [["PNG"], ["PNG", "PNG"], ["no picture"]])
@pytest.mark.parametrize("role", ["user", "assistant", "tool"])
def test_pictures_for_a_model_that_cannot_see(
    client: httpx.Client, model: str, images: list[str], role: str
) -> None:
    data = [picture() if each == "PNG" else base64.b64encode(each.encode()).decode() for each in images]
    message = {"role": role, "content": "See?", "images": data}
    answer = chat(client, model, [user("hi"), message])
    assert_refused(answer, f"{model}:latest does not support image input")


def test_the_server_goes_on_after_pictures_that_it_refused(client: httpx.Client) -> None:
    for _ in range(3):
        assert chat(client, "tool", [{**user("See?"), "images": [picture()]}]).status_code == 400
    found = ask(client, "tool", [user("Hello")], think=False, options=GREEDY)
    assert (found.content, found.reason) == (GREETING, "stop")


def test_reasoning_in_the_history(client: httpx.Client) -> None:
    """A template that wants it sees it; a `<think>` block in earlier text is something `qwen3` forgets."""
    known = case("qwen3", "tool_result_after_thinking")
    shown = rendered(client, "tool", known.messages, tools=[WEATHER])
    assert "<think>\nI need the weather tool.\n</think>\n\n<tool_call>" in shown
    written = assistant("<think>\nold\n</think>\n\nHi")
    assert "old" not in rendered(client, "tool", [user("a"), written, user("b")])
    assert "old" in rendered(client, "tool", [user("a"), written, tool_result("c", "d")])
    assert "old" in rendered(client, "plain", [user("a"), written, user("b")])


def test_calls_in_the_history_keep_the_order_of_their_arguments(client: httpx.Client) -> None:
    arguments = {"z": 1, "a": {"y": [None, True], "b": "ü<"}}
    calls = [{"id": "x", "type": "function", "function": {"index": 3, "name": "f", "arguments": arguments}}]
    message = {"role": "assistant", "content": "So:", "tool_calls": calls}
    shown = rendered(client, "tool", [user("a"), message, user("b")])
    assert re.search(
        r'So:\n<tool_call>\n{"name": "f", "arguments": {"z": 1, "a": {"y": \[null, true\], "b": "(ü|\\u00fc)',
        shown,
    )


@pytest.mark.point(150)
@pytest.mark.parametrize(
    "messages",
    [
        [tool_result("22 degrees", "get_weather")],
        [user("a"), tool_result("1", "f"), tool_result("2", "g")],
        [user("a"), assistant("", PARIS), assistant("", PARIS), user("b")],
        [user("a"), user("b"), user("c")],
        [assistant("a"), assistant("b"), user("c")],
        [system("a"), system("b")],
        [user("a"), {"role": "developer", "content": "b"}, {"role": "ipython", "content": "c"}],
        [user(""), assistant(""), user("")],
        [user("a\0b\u2028\ud7ff🧀<|im_end|>")],
    ],
    ids=["result_alone", "results", "calls", "users", "answers", "systems", "roles", "empty", "characters"],
)
def test_conversations_that_no_one_should_have(client: httpx.Client, messages: Any) -> None:
    for model, tools in (("tool", [WEATHER]), ("plain", None)):
        found = ask(client, model, messages, tools=tools, think=None, options={"num_predict": 1})
        assert found.tokens == 1


def test_two_hundred_messages(client: httpx.Client) -> None:
    messages = [(user if at % 2 == 0 else assistant)(f"Q{at}") for at in range(200)]
    assert seen(client, *messages, LAST, options={"num_ctx": 4096}) == [f"Q{at}" for at in range(200)] + [
        "LAST"
    ]
    assert ask(client, "tool", [*messages, LAST], options={"num_predict": 1}).tokens == 1
