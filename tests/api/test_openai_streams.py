"""Streams of OpenAI's chat (docs/reference 13.1): their chunks, their end, and what ends them early."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from app.api.openai.choices import merged
from app.core.errors import EngineFailed
from app.core.events import Content, Event, Thinking, ToolCall
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from tests.api.openai_site import WEATHER, chunks, refused, site
from tests.e2e.fake_site import fake_site


def deltas(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in found if chunk["choices"]]


@pytest.mark.point(216)
async def test_a_stream_has_the_role_first_and_a_reason_last() -> None:
    async with site({"hi": Reply(("Hel", "", "lo"))}) as served:
        found = chunks(await served.chat(stream=True))
    assert deltas(found) == [{"role": "assistant", "content": "Hel"}, {"content": "lo"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in found] == [None, None, "stop"]
    assert {(chunk["id"], chunk["created"], chunk["object"]) for chunk in found} == {
        (found[0]["id"], found[0]["created"], "chat.completion.chunk")
    }
    assert [list(chunk) for chunk in found] == [
        ["id", "object", "created", "model", "system_fingerprint", "choices"]
    ] * 3


@pytest.mark.point(217)
@pytest.mark.parametrize("count", [1, 2])
async def test_usage_is_a_chunk_of_its_own_where_it_is_asked_for(count: int) -> None:
    async with site() as served:
        plain = chunks(await served.chat(stream=True, n=count))
        told = chunks(await served.chat(stream=True, n=count, stream_options={"include_usage": True}))
        whole = (await served.chat(n=count)).json()
    assert not any("usage" in chunk for chunk in (*plain, *told[:-1]))
    assert told[-1]["choices"] == []
    assert told[-1]["usage"] == whole["usage"]
    assert ("timings" in told[-1]) == (count == 1)


async def test_an_empty_answer_has_its_role_all_the_same() -> None:
    async with site({"hi": Reply(("",))}) as served:
        assert deltas(chunks(await served.chat(stream=True))) == [{"role": "assistant", "content": ""}, {}]


@pytest.mark.point(218, 219)
async def test_reasoning_comes_piece_by_piece_and_calls_whole() -> None:
    calls = (ToolCall(0, "a", "weather", {"city": "Ro"}), ToolCall(1, "b", "weather", {}))
    events: Sequence[Sequence[Event]] = ((Thinking("h"),), (Thinking("m"),), (Content("so"),), calls)
    async with site({"hi": Reply(("1", "2", "3"), events=events)}) as served:
        found = deltas(chunks(await served.chat(stream=True, tools=[WEATHER])))
    assert found[:3] == [
        {"role": "assistant", "content": "", "reasoning": "h", "reasoning_content": "h"},
        {"content": "", "reasoning": "m", "reasoning_content": "m"},
        {"content": "so"},
    ]
    told = [delta["tool_calls"][0] for delta in found[3:5]]
    assert [(call["index"], call["id"]) for call in told] == [(0, "a"), (1, "b")]
    assert told[0]["function"] == {"name": "weather", "arguments": '{"city":"Ro"}'}


async def test_a_stream_comes_to_the_whole_answer() -> None:
    events = ((Thinking("h\n"),), (Content("<a>"),), (Content("\u2028 b"),))
    async with site({"hi": Reply(("1", "2", "3"), events=events)}) as served:
        (choice,) = (await served.chat()).json()["choices"]
        found = deltas(chunks(await served.chat(stream=True)))
    for name in ("content", "reasoning"):
        assert "".join(delta.get(name, "") for delta in found) == choice["message"][name]


async def test_log_probabilities_come_with_their_text() -> None:
    async with site({"hi": Reply(("a", "b"))}) as served:
        found = chunks(await served.chat(stream=True, logprobs=True, top_logprobs=1))
    scored = [chunk["choices"][0].get("logprobs") for chunk in found]
    assert [each and each["content"][0]["token"] for each in scored] == ["a", "b", None]


async def test_several_answers_have_each_their_own_chunks() -> None:
    async with site() as served:
        found = chunks(await served.chat(stream=True, n=3))
    for index in range(3):
        mine = [chunk["choices"][0] for chunk in found if chunk["choices"][0]["index"] == index]
        assert [choice["delta"].get("role") for choice in mine] == ["assistant", *([None] * (len(mine) - 1))]
        text = "".join(choice["delta"].get("content", "") for choice in mine)
        assert text == "Hello from the scripted engine."
        assert mine[-1]["finish_reason"] == "stop"


@pytest.mark.point(224)
@pytest.mark.parametrize("count", [1, 2])
async def test_a_failure_in_mid_stream_is_told_and_the_stream_is_not_done(count: int) -> None:
    async with site({"hi": Reply(("a", "b"), error=EngineFailed("broken"), error_after=1)}) as served:
        answer = await served.chat(stream=True, n=count)
        whole = await served.chat(n=count)
    last = answer.text.removesuffix("\n\n").split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: ")) == {
        "error": {"message": "broken", "type": "api_error", "param": None, "code": None}
    }
    assert "[DONE]" not in answer.text
    refused(whole, "broken", 500)


async def test_a_failure_before_the_first_chunk_has_its_status() -> None:
    async with site({"hi": Reply(("a",), error=EngineFailed("broken"))}) as served:
        refused(await served.chat(stream=True), "broken", 500)
        refused(await served.chat(stream=True, model="nosuch"), "model 'nosuch' not found", 404)


async def test_a_stream_of_nothing_but_a_load() -> None:
    async with site() as served:
        found = chunks(await served.chat({"role": "user", "content": []}, stream=True))
    assert [chunk["choices"][0]["finish_reason"] for chunk in found] == [None, "load"]


def test_a_client_that_leaves_ends_every_answer_of_its_request() -> None:
    with fake_site(
        fake_model("m"), engine=lambda: FakeEngine(default=Reply(("x",) * 2000), delay_s=0.01)
    ) as served:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "n": 3}
        with served.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()  # one that is collected closes the answer
            next(lines)
            assert served.running == 3
        for _ in range(500):
            if not served.running:
                break
            served.client.get("/livez")
        assert served.running == 0


# Several answers as one stream


async def source(*items: str, gate: asyncio.Event | None = None) -> AsyncGenerator[Sequence[Event]]:
    for item in items:
        if gate is not None:
            await gate.wait()
        if item == "!":
            raise EngineFailed("broken")
        yield (Content(item),)


async def test_events_are_told_as_they_come_each_with_its_choice() -> None:
    gate, seen = asyncio.Event(), list[tuple[int, str]]()
    at = 0

    def turn_to(index: int) -> None:
        nonlocal at
        at = index

    async for events in merged([source("a", gate=gate), source("b", "c")], turn_to):
        seen += [(at, event.text) for event in events if isinstance(event, Content)]
        if len(seen) == 2:
            gate.set()
    assert seen == [(1, "b"), (1, "c"), (0, "a")]


async def test_a_few_answers_at_once_are_on_their_way_to_their_first_token() -> None:
    """Each has a prompt made and waits in the queue: they must not be there all at once."""
    gate, begun, said = asyncio.Event(), list[int](), list[str]()

    async def run(index: int) -> AsyncGenerator[Sequence[Event]]:
        begun.append(index)
        await gate.wait()
        yield (Content("a"),)
        yield (Content("b"),)

    async def read() -> None:
        async for events in merged([run(index) for index in range(20)], lambda _: None):
            said.extend(event.text for event in events if isinstance(event, Content))

    reading = asyncio.create_task(read())
    for _ in range(100):
        await asyncio.sleep(0)
    assert begun == list(range(8))
    gate.set()
    await reading
    assert sorted(begun) == list(range(20))
    assert sorted(said) == ["a"] * 20 + ["b"] * 20


async def test_answers_that_never_began_are_closed_too() -> None:
    runs = [source("!")] + [source("a") for _ in range(20)]
    with pytest.raises(EngineFailed):
        async for _ in merged(runs, lambda _: None):
            pass
    for run in runs:
        assert await anext(run, None) is None


async def test_the_first_failure_ends_all_and_closes_every_run() -> None:
    never = asyncio.Event()
    closed = list[str]()

    async def held() -> AsyncGenerator[Sequence[Event]]:
        try:
            await never.wait()
            yield ()
        finally:
            closed.append("held")

    with pytest.raises(EngineFailed):
        async for _ in merged([held(), source("a", "!")], lambda _: None):
            pass
    assert closed == ["held"]
