"""The scripted engine's own knobs; what every engine owes is in tests/contract."""

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import EngineDied, EngineFailed, InvalidRequest
from app.core.events import Content, Delta, Thinking
from app.core.request import ChatPrompt, Message, PastToolCall, Sampling
from app.engine.base import Prompt, Run
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.engine.fake.words import Words
from tests.answers import deltas_of

RUN = Run(Sampling(), max_tokens=100)


async def answered(engine: FakeEngine, text: str = "hi", run: Run = RUN) -> list[Delta]:
    return [delta async for delta in deltas_of(engine, await engine.tokenize(text), run)]


async def texts_of(engine: FakeEngine, text: str = "hi", run: Run = RUN) -> list[str]:
    return [delta.text for delta in await answered(engine, text, run)]


async def settle() -> None:
    """Give every other task more turns than it needs to come to a stop."""
    for _ in range(20):
        await asyncio.sleep(0)


def chat_run(content: str) -> Run:
    return Run(Sampling(), max_tokens=100, chat=ChatPrompt((Message.of("user", content),)))


async def test_a_reply_is_found_by_text_then_by_the_last_message_then_by_default() -> None:
    script = {"hi": Reply(("A",)), "question": Reply(("B",))}
    engine = FakeEngine(script, default=Reply(("C",)))
    assert await texts_of(engine) == ["A"]
    assert await texts_of(engine, "rendered", chat_run("question")) == ["B"]
    assert await texts_of(engine, "other", chat_run("other")) == ["C"]


async def test_a_function_sees_the_prompt_and_the_run() -> None:
    engine = FakeEngine(lambda prompt, run: Reply((prompt.text, f" seed={run.sampling.seed}")))
    assert await texts_of(engine, "echo", Run(Sampling(seed=7), max_tokens=9)) == ["echo", " seed=7"]


async def test_a_script_says_how_much_of_a_prompt_was_cached() -> None:
    engine = FakeEngine(default=Reply(("A",), cached_tokens=1))
    assert [delta.cached_tokens for delta in await answered(engine, "one two")] == [1]


async def test_what_was_asked_is_written_down() -> None:
    engine = FakeEngine()
    await answered(engine)
    chat = ChatPrompt((Message.of("user", "x"),))
    await engine.render(chat, think="high", continue_last=False, chat_template="T")
    assert [(asked.prompt.text, asked.run) for asked in engine.asked] == [("hi", RUN)]
    assert [tuple(each) for each in engine.renderings] == [(chat, "high", False, "T", {}, False)]


async def test_one_word_is_one_token() -> None:
    engine = FakeEngine(default=Reply(("one two", " three")))
    first, second = await answered(engine, "count these four words")
    assert (len(first.token_ids), len(second.token_ids)) == (2, 1)
    assert (second.prompt_tokens, second.output_tokens, second.finish) == (4, 3, "stop")
    assert first.finish is None


@pytest.mark.parametrize(
    ("max_tokens", "texts", "finish"),
    [(1, ["one"], "length"), (3, ["one two", " three"], "length"), (5, ["one two", " three four"], "stop")],
)
async def test_max_tokens_cuts_inside_a_delta(max_tokens: int, texts: list[str], finish: str) -> None:
    engine = FakeEngine(default=Reply(("one two", " three four")))
    deltas = await answered(engine, run=Run(Sampling(), max_tokens=max_tokens))
    assert [delta.text for delta in deltas] == texts
    assert deltas[-1].finish == finish


@pytest.mark.parametrize(
    ("stop", "texts"),
    [
        (("END",), ["one ", "two "]),
        (("e t",), ["on"]),
        (("two", "e"), ["on"]),
        (("one",), [""]),
        (("nowhere",), ["one ", "two EN", "D three"]),
    ],
)
async def test_a_stop_string_ends_the_reply_also_across_deltas(
    stop: tuple[str, ...], texts: list[str]
) -> None:
    engine = FakeEngine(default=Reply(("one ", "two EN", "D three")))
    deltas = await answered(engine, run=Run(Sampling(stop=stop), max_tokens=100))
    assert [delta.text for delta in deltas] == texts
    assert deltas[-1].finish == "stop"


async def test_an_empty_reply_still_ends() -> None:
    (only,) = await answered(FakeEngine(default=Reply(())))
    assert (only.text, only.finish, only.output_tokens) == ("", "stop", 0)


async def test_logprobs_per_token_with_as_many_alternatives_as_wanted() -> None:
    engine = FakeEngine(default=Reply(("one two",)))
    (delta,) = await answered(engine, run=Run(Sampling(), max_tokens=9, logprobs=2))
    assert delta.logprobs is not None
    assert [(each.token, each.token_bytes, len(each.top)) for each in delta.logprobs] == [
        ("one", b"one", 2),
        (" two", b" two", 2),
    ]
    assert [each.token for each in delta.logprobs[0].top] == ["one", " other1"]


async def test_an_error_before_the_first_delta() -> None:
    engine = FakeEngine(default=Reply(("a", "b"), error=EngineFailed("out of memory")))
    with pytest.raises(EngineFailed, match="out of memory"):
        await answered(engine)
    assert engine.metrics()["running"] == 0


async def test_death_after_some_deltas_is_the_death_of_the_engine() -> None:
    engine = FakeEngine(default=Reply(("a", " b", " c"), error=EngineDied("gone"), error_after=2))
    seen: list[str] = []
    prompt = await engine.tokenize("hi")

    async def read() -> None:
        async for delta in deltas_of(engine, prompt, RUN):
            seen.append(delta.text)

    with pytest.raises(EngineDied, match="gone"):
        await read()
    assert seen == ["a", " b"]
    async with asyncio.timeout(5):
        await engine.wait_dead()


async def test_an_event_gate_holds_the_first_delta_back() -> None:
    gate = asyncio.Event()
    engine = FakeEngine(default=Reply(("a",), gate=gate))
    request = asyncio.create_task(texts_of(engine))
    await settle()
    assert engine.metrics()["running"] == 1
    assert not request.done()
    gate.set()
    assert await request == ["a"]


async def test_a_function_gate_is_awaited_before_each_delta() -> None:
    calls: list[int] = []

    async def gate(index: int) -> None:
        calls.append(index)

    engine = FakeEngine(default=Reply(("a", "b", "c")), gate=gate)
    await answered(engine)
    assert calls == [0, 1, 2]


async def test_what_a_gate_raises_reaches_the_request() -> None:
    async def gate(index: int) -> None:
        raise EngineFailed(f"at {index}")

    with pytest.raises(EngineFailed, match="at 0"):
        await answered(FakeEngine(gate=gate))


async def test_delay_is_waited_for_and_ends_with_the_engine() -> None:
    slow, quick = FakeEngine(delay_s=3600), FakeEngine(delay_s=0.0001)
    request = asyncio.create_task(answered(slow))
    assert len(await answered(quick)) == 5
    assert not request.done()
    slow.die()
    with pytest.raises(EngineDied):
        await request


async def test_requests_over_the_slots_wait_in_line() -> None:
    gate = asyncio.Event()
    engine = FakeEngine(slots=1, gate=gate)
    prompt = await engine.tokenize("hi")
    requests = [asyncio.create_task(answered(engine, f"request {number}")) for number in range(3)]
    await settle()
    assert engine.metrics() == {"running": 1, "waiting": 2}
    requests[1].cancel()
    gate.set()
    done = await asyncio.gather(*requests, return_exceptions=True)
    assert [isinstance(each, list) for each in done] == [True, False, True]
    assert engine.metrics() == {"running": 0, "waiting": 0}
    async with aclosing(deltas_of(engine, prompt, RUN)) as again:
        assert (await anext(again)).text == "Hello"


async def test_the_decoder_gives_the_scripted_events() -> None:
    thought, said, late = Thinking("hm"), Content("yes"), Content("!")
    engine = FakeEngine(default=Reply(("<think>hm", "</think>yes"), events=((thought,), (said,), (late,))))
    prompt = await engine.tokenize("hi")
    async with engine.answer(prompt, RUN) as answer:
        assert answer.decoder is not None
        assert answer.decoder.feed(await answer.next()) == [thought]
        assert answer.decoder.feed(await answer.next()) == [said]
        assert answer.decoder.flush() == [late]
    async with FakeEngine().answer(prompt, RUN) as answer:
        assert answer.decoder is None


async def test_rendering_shows_all_that_messages_hold() -> None:
    call = PastToolCall("add", {"a": 1})
    chat = ChatPrompt(
        (
            Message.of("system", "SYS"),
            Message.of("user", "look", images=(b"png",)),
            Message.of("assistant", "calling", thinking="why", tool_calls=(call,)),
            Message.of("tool", "2", tool_name="add"),
        ),
        tools=({"type": "function", "function": {"name": "add"}},),
    )
    prompt = await FakeEngine().render(chat, think=None, continue_last=True)
    assert prompt.text == (
        '<|im_start|>system\nTools:\n{"type": "function", "function": {"name": "add"}}<|im_end|>\n'
        "<|im_start|>system\nSYS<|im_end|>\n"
        "<|im_start|>user\n<|image|>look<|im_end|>\n"
        "<|im_start|>assistant\n<think>why</think>\ncalling"
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|im_end|>\n'
        "<|im_start|>tool\n[add] 2<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert (prompt.image_count, prompt.payload) == (1, (b"png",))


async def test_the_last_assistant_message_can_stay_open() -> None:
    chat = ChatPrompt((Message.of("user", "q"), Message.of("assistant", "Sure, ")))
    prompt = await FakeEngine().render(chat, think=None, continue_last=True)
    assert prompt.text.endswith("<|im_start|>assistant\nSure, ")


async def test_a_prompt_that_fills_the_window_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="the input length exceeds the context length"):
        await answered(FakeEngine(window=2), "two words")


@given(st.lists(st.text()))
def test_words_round_trip_and_ids_are_the_same_everywhere(texts: list[str]) -> None:
    words, others = Words(), Words()
    for text in texts:
        assert words.decode(words.encode(text)) == text
    for text in reversed(texts):
        assert others.encode(text) == words.encode(text)


def test_words_whose_hashes_collide_stay_apart() -> None:
    words = Words()
    encoded = [words.encode(word)[0] for word in ("plumless", "buckeroo")]  # Equal CRC-32.
    assert len(set(encoded)) == 2
    assert words.decode(encoded) == "plumlessbuckeroo"


def test_a_marker_is_a_token_of_its_own() -> None:
    words = Words()
    assert [words.decode([each]) for each in words.encode("a<|im_end|>\nb <c")] == [
        "a",
        "<|im_end|>",
        "\nb",
        " ",
        "<",
        "c",
    ]


def test_an_id_that_was_never_made_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="token id 5 is not in the vocabulary"):
        Words().decode([5])


async def test_engines_with_shared_words_read_each_others_ids() -> None:
    words = Words()
    prompt: Prompt = await FakeEngine(words=words).tokenize("to be kept")
    assert await FakeEngine(words=words).detokenize(prompt.token_ids) == "to be kept"


async def test_an_engine_that_is_asleep_is_asked_for_nothing() -> None:
    engine = FakeEngine(can_sleep=True)
    await engine.sleep()
    with pytest.raises(RuntimeError, match="asleep"):
        await engine.embed(["a"], truncate=True, limit=10, normalize=True)
    await engine.wake()
    assert (await engine.embed(["a"], truncate=True, limit=10, normalize=True)).prompt_tokens == 1
    engine.die()
    with pytest.raises(EngineDied):
        await engine.sleep()
