"""The prompt of a request on a scripted engine: what goes in, in which order, and what is cut to fit."""

import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from app.core.errors import InvalidRequest
from app.core.model import Model
from app.core.pool import Pool
from app.core.request import ChatPrompt, CompletionPrompt, Generation, Message, PastToolCall, Sampling, Think
from app.engine.base import Prompt
from app.engine.fake.engine import FakeEngine
from app.prompt.gotemplate import GoTemplate
from app.runtime.compose import TOO_LONG, Composer
from tests.unit.garage import model

SYSTEM, USER, ANSWER = Message.of("system", "S"), Message.of("user", "U"), Message.of("assistant", "A")
OPENED = "<|im_start|>assistant\n"
PICTURE = b"picture"
ROOM = 1000


def turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def served(
    *,
    family: str = "llama",
    fim: tuple[str, str, str] | None = None,
    capabilities: Sequence[str] = ("completion", "vision"),
    **spec: Any,
) -> Model:
    base = model("m")
    facts = replace(base.facts, family=family, fim=fim, capabilities=tuple(capabilities))
    return replace(base, spec=replace(base.spec, **spec), facts=facts)


async def composed(
    asked: ChatPrompt | CompletionPrompt,
    *,
    on: Model | None = None,
    engine: FakeEngine | None = None,
    window: int = ROOM,
    num_keep: int = 4,
    **fields: Any,
) -> Prompt:
    generation = Generation("m", asked, received_ns=0, **fields)
    sampling = Sampling(num_keep=num_keep)
    composer = Composer(on or served(), engine or FakeEngine(), generation, sampling, window, pool=Pool())
    return await composer.prompt()


async def chat(*messages: Message, tools: Any = (), **fields: Any) -> Prompt:
    return await composed(ChatPrompt(messages, tools), **fields)


async def completion(prompt: str = "U", *, parts: Any = None, **fields: Any) -> Prompt:
    return await composed(CompletionPrompt(prompt, **(parts or {})), **fields)


class Refusing(FakeEngine):
    """An engine whose template cannot leave the last message open."""

    async def render(self, chat: ChatPrompt, *, continue_last: bool, **others: Any) -> Prompt:
        if continue_last:
            raise InvalidRequest("the chat template refused the messages")
        return await super().render(chat, continue_last=continue_last, **others)


# Which messages there are.


@pytest.mark.point(136, 137, 139)
@pytest.mark.parametrize(
    ("asked", "order"),
    [
        ([USER], ["M", "U0", "A0", "U"]),
        ([SYSTEM, USER], ["U0", "A0", "S", "U"]),
        ([USER, SYSTEM], ["M", "U0", "A0", "U", "S"]),
    ],
)
async def test_the_order_of_the_messages(asked: list[Message], order: list[str]) -> None:
    on = served(system="M", messages=(Message.of("user", "U0"), Message.of("assistant", "A0")))
    found = await chat(*asked, on=on)
    roles = {"U": "user", "A": "assistant", "S": "system", "M": "system"}
    assert found.text == "".join(turn(roles[name[0]], name) for name in order) + OPENED


async def test_a_completion_is_one_message_of_the_user() -> None:
    on = served(system="M", messages=(Message.of("user", "U0"), Message.of("assistant", "A0")))
    whole = turn("user", "U0") + turn("assistant", "A0") + turn("user", "U") + OPENED
    assert (await completion(on=on)).text == turn("system", "M") + whole
    assert (await completion(on=on, parts={"system": "S"})).text == turn("system", "S") + whole


@pytest.mark.parametrize("family", ["qwen3", "llama"])
async def test_some_models_do_not_see_their_earlier_reasoning(family: str) -> None:
    said = Message.of("assistant", "<think>Hm.</think>\n\nA")
    found = await chat(USER, said, USER, on=served(family=family))
    assert turn("assistant", "A" if family == "qwen3" else said.text) in found.text


async def test_what_the_engine_is_told_about_a_chat() -> None:
    engine = FakeEngine()
    tools = ({"type": "function", "function": {"name": "f"}},)
    await chat(USER, tools=tools, engine=engine, think="low", on=served(chat_template="J"))
    told = engine.renderings.pop()
    assert told.chat == ChatPrompt((USER,), tools)
    assert (told.think, told.continue_last, told.chat_template) == ("low", False, "J")


async def test_a_template_of_the_models_own_has_its_own_switch_of_thinking() -> None:
    engine, on = FakeEngine(), served(chat_template="J")
    on = replace(on, facts=replace(on.facts, thinking_variable="thinking"))
    for variable, told in (
        ("thinking", {}),
        ("enable_thinking", {"thinking": False}),
        (None, {"thinking": False}),
    ):
        model = replace(on, engine_facts=replace(on.facts, thinking_variable=variable))
        await chat(USER, engine=engine, think=False, on=model)
        assert engine.renderings.pop().variables == told


# Completions of other kinds.


async def test_a_raw_prompt_is_not_touched() -> None:
    on = served(system="M", template="T {{ .Prompt }}", messages=(Message.of("user", "U0"),))
    assert (await completion(" {{ x }}\n", on=on, parts={"raw": True})).text == " {{ x }}\n"


async def test_a_suffix_takes_the_markers_of_the_model_or_its_template() -> None:
    parts = {"suffix": "after", "system": "S"}
    by_markers = await completion("before", on=served(fim=("<P>", "<S>", "<M>")), parts=parts)
    assert by_markers.text == "<P>before<S>after<M>"
    on = served(fim=("<P>", "<S>", "<M>"), template="{{ .Suffix }}|{{ .Prompt }}")
    assert (await completion("before", on=on, parts=parts)).text == "after|before"
    own = {**parts, "template": "{{ .Prompt }}~{{ .Suffix }}"}
    assert (await completion("before", on=on, parts=own)).text == "before~after"


async def test_a_context_comes_before_the_prompt_and_stands_for_the_history() -> None:
    engine = FakeEngine()
    earlier = await engine.tokenize("we said this ")
    on = served(system="M", messages=(Message.of("user", "U0"),))
    parts = {"context": tuple(earlier.token_ids)}
    found = await completion(on=on, engine=engine, parts=parts)
    assert found.text == f"we said this {turn('system', 'M')}{turn('user', 'U')}{OPENED}"
    assert list(found.token_ids)[: len(earlier.token_ids)] == list(earlier.token_ids)
    fresh = await completion(on=on, engine=engine, parts={"context": ()})
    assert fresh.text == turn("system", "M") + turn("user", "U") + OPENED


@pytest.mark.parametrize("parts", [{}, {"raw": True}, {"context": ()}])
async def test_pictures_of_a_completion_are_seen(parts: dict[str, Any]) -> None:
    found = await completion(parts={**parts, "images": (PICTURE, PICTURE)})
    assert (found.image_count, found.payload) == (2, (PICTURE, PICTURE))


@pytest.mark.parametrize(
    ("think", "seen"), [(None, "medium"), (True, "medium"), ("low", "low"), (False, "off")]
)
async def test_a_go_template_sees_tools_pictures_and_the_switch(think: Think, seen: str) -> None:
    source = "{{ if .Think }}{{ .ThinkLevel }}{{ else }}off{{ end }}|"
    source += "{{ range .Tools }}{{ .Function.Name }}{{ end }}|{{ range .Messages }}{{ .Content }}{{ end }}"
    base = served(template=source)
    on = replace(base, facts=replace(base.facts, capabilities=("completion", "thinking", "tools", "vision")))
    tools = ({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},)
    asked = Message.of("user", "U", images=(PICTURE,))
    found = await chat(asked, on=on, tools=tools, think=think)
    assert (found.text, found.payload) == (f"{seen}|f|[img-0]U", (PICTURE,))


async def test_the_template_of_a_request_wins_over_that_of_the_model() -> None:
    on = served(template="M {{ .Prompt }}")
    assert (await completion(on=on, parts={"template": "R {{ .Prompt }}"})).text == "R U"
    assert (await completion(on=on)).text == "M U"


@pytest.mark.point(80)
async def test_a_template_that_does_not_parse() -> None:
    with pytest.raises(InvalidRequest, match=r"^template: :1: unclosed action$"):
        await completion(parts={"template": "{{ .Bad"})


# An answer to go on with.


@pytest.mark.point(153)
async def test_a_last_message_of_the_assistant_is_left_open() -> None:
    engine = FakeEngine()
    assert (await chat(USER, ANSWER, engine=engine)).text.endswith("<|im_start|>assistant\nA")
    assert [told.continue_last for told in engine.renderings if told.chat.messages[-1] == ANSWER] == [True]


CALL = PastToolCall("f", {})


@pytest.mark.point(153)
@pytest.mark.parametrize(
    "last",
    [Message.of("assistant", ""), Message.of("assistant", "A", tool_calls=(CALL,)), Message.of("tool", "22")],
)
async def test_what_is_no_beginning_of_an_answer_is_not_left_open(last: Message) -> None:
    assert (await chat(USER, last)).text.endswith(OPENED)


@pytest.mark.point(153)
async def test_a_template_that_cannot_be_left_open_gets_the_text_behind_it() -> None:
    found = await chat(USER, ANSWER, engine=Refusing())
    assert found.text == turn("user", "U") + OPENED + "A"
    assert found.continues


@pytest.mark.parametrize(
    "last", [Message.of("assistant", "A", images=(PICTURE,)), Message.of("assistant", "A", thinking="Hm.")]
)
async def test_nothing_of_an_answer_that_cannot_be_left_open_is_dropped(last: Message) -> None:
    with pytest.raises(InvalidRequest, match="refused"):
        await chat(USER, last, engine=Refusing())


# What is cut to fit.


def talk(count: int) -> list[Message]:
    """Each message is one word of content."""
    return [Message.of(("user", "assistant")[at % 2], f"w{at}") for at in range(count)]


async def size(*messages: Message) -> int:
    return len((await chat(*messages, window=10**6, engine=FakeEngine(window=10**6))).token_ids)


@pytest.mark.point(154)
@pytest.mark.parametrize("kept", [1, 2, 3, 10, 19])
async def test_the_oldest_messages_go_until_the_rest_fits(kept: int) -> None:
    messages = talk(21)
    left = [SYSTEM, *messages[-kept:]]
    window = await size(*left)
    found = await chat(SYSTEM, *messages, window=window)
    assert found.text == "".join(turn(each.role, each.text) for each in left) + OPENED
    assert len(found.token_ids) == window
    smaller = await chat(SYSTEM, *messages, window=window - 1)
    assert len(smaller.token_ids) < window


@pytest.mark.point(154)
async def test_later_system_messages_stay_too_and_come_first() -> None:
    old, new, last = Message.of("user", "old " * 50), Message.of("system", "S2"), Message.of("user", "L")
    found = await chat(SYSTEM, old, new, old, last, window=30)
    assert found.text == turn("system", "S") + turn("system", "S2") + turn("user", "L") + OPENED


@pytest.mark.point(154)
async def test_a_history_that_fills_the_whole_engine_leaves_room_for_an_answer() -> None:
    messages = talk(21)
    whole = await size(*messages)
    found = await chat(*messages, window=whole, engine=FakeEngine(window=whole))
    assert found.text == "".join(turn(each.role, each.text) for each in messages[1:]) + OPENED


async def test_a_long_history_is_rendered_only_a_few_times() -> None:
    engine = FakeEngine()
    await chat(*talk(200), Message.of("user", "last"), window=100, engine=engine)
    assert len(engine.renderings) <= 10


@pytest.mark.point(155, 156)
@pytest.mark.parametrize("fields", [{"truncate": False}, {"truncate": False, "shift": False}])
async def test_without_truncation_a_long_history_is_refused(fields: dict[str, bool]) -> None:
    window = await size(*talk(21)) - 1
    with pytest.raises(InvalidRequest) as refused:
        await chat(*talk(21), window=window, **fields)
    assert str(refused.value) == TOO_LONG
    whole = await chat(*talk(21), window=window + 1, **fields)
    assert whole.text.startswith(turn("user", "w0"))


@pytest.mark.parametrize("num_keep", [0, 4, 9])
async def test_a_single_long_prompt_loses_its_middle(num_keep: int) -> None:
    engine = FakeEngine()
    message = Message.of("user", " ".join(f"w{at}" for at in range(300)))
    whole = (await chat(message, engine=engine)).token_ids
    found = (await chat(message, engine=engine, window=100, num_keep=num_keep)).token_ids
    assert num_keep < len(found) < 100
    assert list(found) == [*whole[:num_keep], *whole[len(whole) - len(found) + num_keep :]]


@pytest.mark.point(156)
@pytest.mark.parametrize("raw", [True, False])
async def test_without_shift_a_single_long_prompt_is_refused(raw: bool) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await completion("w " * 300, parts={"raw": raw}, window=100, shift=False)
    assert str(refused.value) == TOO_LONG


async def test_a_prompt_with_pictures_is_never_cut_in_the_middle() -> None:
    with pytest.raises(InvalidRequest, match="longer than the context length"):
        await chat(Message.of("user", "w " * 300, images=(PICTURE,)), window=100)


async def test_only_one_rendering_is_kept_and_none_is_made_again() -> None:
    """F1: a chat kept every rendering until its request ended."""

    class Watched(FakeEngine):
        """Counts the renderings that somebody still has."""

        def __init__(self) -> None:
            super().__init__()
            self.alive = self.most = self.count = 0

        async def render(self, chat: ChatPrompt, **others: Any) -> Prompt:
            made = await super().render(chat, **others)
            ids = _Ids(made.token_ids)
            weakref.finalize(ids, self.gone)
            self.count += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
            return replace(made, token_ids=ids)

        def gone(self) -> None:
            self.alive -= 1

    engine = Watched()
    found = await chat(*talk(2000), window=100, engine=engine)
    assert 80 < len(found.token_ids) <= 100
    assert engine.most <= 3
    assert engine.count < 20


class _Ids(list[int]):
    """A list whose end can be seen."""


# What is refused before any work.


@pytest.mark.parametrize("parts", [{}, {"raw": True}, {"template": "{{ .Prompt }}"}, {"suffix": "s"}])
async def test_a_model_that_sees_no_pictures_is_told_first(parts: dict[str, Any]) -> None:
    """F15: pictures were numbered, and the template run, for a model that cannot see them."""
    engine, on = FakeEngine(), served(capabilities=["completion"])
    for asked in (
        completion("[img]", on=on, engine=engine, parts={"images": (PICTURE,), **parts}),
        chat(Message.of("user", "[img]", images=(PICTURE,)), on=on, engine=engine),
    ):
        with pytest.raises(InvalidRequest) as refused:
            await asked
        assert str(refused.value) == "m:latest does not support image input"
    assert not engine.renderings


@pytest.mark.parametrize(
    "parts", [{"template": "T {{ .Prompt }}"}, {"template": "{{ .Prompt }}{{ .Suffix }}", "suffix": "after"}]
)
async def test_templates_are_compiled_and_run_beside_the_event_loop(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F14: 212 bytes that a client sent stopped every other stream for two seconds."""
    threads: list[str] = []
    for name in ("__init__", "render"):
        known = getattr(GoTemplate, name)

        def noted(*arguments: Any, _known: Any = known, **fields: Any) -> Any:
            threads.append(threading.current_thread().name)
            return _known(*arguments, **fields)

        monkeypatch.setattr(GoTemplate, name, noted)
    await completion("before", parts=parts)
    assert len(threads) == 2
    assert {*threads} == {"client-work"}
