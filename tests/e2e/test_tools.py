"""All transcripts of the test models on the real engine: reasoning, text, tool calls (docs/reference 8)."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from harness.models.catalogue import (
    CASES,
    PERSON,
    QWEN3,
    Case,
    Kind,
    case,
    coder_xml,
    hermes,
    llama_json,
    user,
)
from harness.server import LiveServer
from tests.e2e.chats import GREEDY, Reply, ask, body_of, reply_of

pytestmark = pytest.mark.engine

MODELS: dict[Kind, str] = {"qwen3": "tool", "llama": "llama", "coder": "fim"}
WRITE = {"qwen3": hermes, "llama": llama_json, "coder": coder_xml}
EVERY = [
    pytest.param(kind, known, think, id=f"{MODELS[kind]}-{known.name}{'-think' * bool(think)}")
    for kind in MODELS
    for known in CASES[kind]
    for think in ((True, False) if kind == "qwen3" else (None,))
]


@pytest.fixture(scope="module", params=list(MODELS))
def kind(request: pytest.FixtureRequest) -> Kind:
    """Tests of the same kind run together, since loading a model takes seconds."""
    return request.param


@pytest.fixture(scope="module")
def think(kind: Kind) -> bool | None:
    """Off where it could be on, for tests of what follows the reasoning."""
    return False if kind == "qwen3" else None


def asked(kind: Kind, known: Case, **fields: Any) -> dict[str, Any]:
    """The body of a chat that a transcript answers."""
    fields.setdefault("options", GREEDY)
    return body_of(MODELS[kind], known.messages, tools=list(known.tools), **fields)


def answer(client: httpx.Client, kind: Kind, known: Case, **fields: Any) -> Reply:
    return reply_of(client.post("/api/chat", json=asked(kind, known, **fields)))


def calls_of(known: Case) -> list[tuple[str, str]]:
    return [(call.name, json.dumps(call.arguments)) for call in known.calls]


def assert_told(found: Reply, known: Case, think: bool | None) -> None:
    assert found.thinking == (known.thinking if think else "")
    assert found.content == known.content
    assert found.called == calls_of(known)
    assert found.reason == ("tool_calls" if known.calls else "stop")


def assert_in_order(found: Reply) -> None:
    """Reasoning, then text, then each call whole on a line of its own, then the line that ends it."""
    kinds: list[int] = []
    for part in found.parts[:-1]:
        held = [name for name in ("thinking", "content", "tool_calls") if part["message"].get(name)]
        assert len(held) == 1, part
        assert held != ["tool_calls"] or len(part["message"]["tool_calls"]) == 1
        kinds.append(["thinking", "content", "tool_calls"].index(held[0]))
    assert kinds == sorted(kinds)
    assert found.parts[-1]["message"] == {"role": "assistant", "content": ""}


def assert_spelled(found: Reply, known: Case, think: bool | None) -> None:
    """The tokens of a reply, its tags and calls among them, are told once and are those that were taught."""
    entries = [entry for part in found.parts for entry in part["logprobs"]]
    assert len(entries) == found.tokens
    written = b"".join(bytes(entry.get("bytes", ())) for entry in entries).decode()
    reasoning = f"<think>\n{known.thinking}\n</think>\n\n" if think and known.thinking else ""
    assert written.startswith(reasoning + known.reply)


@pytest.mark.point(144, 145, 146, 147, 148)
@pytest.mark.row("A3", "A6", "A8", "B1")
@pytest.mark.parametrize(("of", "known", "thinks"), EVERY)
def test_every_transcript_streamed_and_whole(
    client: httpx.Client, of: Kind, known: Case, thinks: bool | None
) -> None:
    streamed = answer(client, of, known, think=thinks)
    assert_told(streamed, known, thinks)
    assert_in_order(streamed)
    whole = answer(client, of, known, think=thinks, stream=False, logprobs=True)
    assert_told(whole, known, thinks)
    assert_spelled(whole, known, thinks)
    assert whole.tokens == streamed.tokens
    assert whole.parts[0]["prompt_eval_count"] == streamed.parts[-1]["prompt_eval_count"]


@pytest.mark.point(150)
@pytest.mark.row("A3")
@pytest.mark.parametrize("named", ["tool_name", "tool_call_id", None])
def test_a_call_its_result_and_the_answer(
    client: httpx.Client, kind: Kind, think: bool | None, named: str | None
) -> None:
    """The round trip of a client that sends back what it got."""
    calling, known = case(kind, "call"), case(kind, "tool_result")
    said = answer(client, kind, calling, think=think, stream=False)
    (call,) = said.calls
    names = {"tool_name": call["function"]["name"], "tool_call_id": call["id"]}
    result = {"role": "tool", "content": known.messages[-1]["content"]}
    if named:
        result[named] = names[named]
    messages = [*calling.messages, said.parts[0]["message"], result]
    fields = {"tools": list(known.tools), "options": GREEDY, "think": think}
    assert ask(client, MODELS[kind], messages, **fields).content == known.content


# Replies that end too early.


def limited(client: httpx.Client, kind: Kind, known: Case, tokens: int, **fields: Any) -> tuple[Reply, Reply]:
    """The first tokens of a reply, streamed and whole."""
    options = GREEDY | {"num_predict": tokens}
    streamed = answer(client, kind, known, options=options, **fields)
    whole = answer(client, kind, known, options=options, stream=False, **fields)
    assert streamed.tokens == whole.tokens == tokens
    assert (streamed.thinking, streamed.content, streamed.called) == (
        whole.thinking,
        whole.content,
        whole.called,
    )
    return streamed, whole


@pytest.mark.point(147)
def test_a_limit_within_a_call(client: httpx.Client, kind: Kind, think: bool | None) -> None:
    """No half call is delivered and nothing that was made is lost: it is text, but for a call before it."""
    known = case(kind, "two_calls")
    whole = answer(client, kind, known, think=think, stream=False)
    written = WRITE[kind](*known.calls)
    for tokens in (1, 2, 6, whole.tokens // 4, whole.tokens // 2 + 6, whole.tokens - 6):
        for found in limited(client, kind, known, tokens, think=think):
            assert found.called in ([], calls_of(known)[:1])
            assert found.reason == ("tool_calls" if found.called else "length")
            assert found.content
            assert found.content in written


def test_a_limit_just_behind_a_call(client: httpx.Client, kind: Kind, think: bool | None) -> None:
    known = case(kind, "two_calls")
    whole = answer(client, kind, known, think=think, stream=False)
    for found in limited(client, kind, known, whole.tokens - 1, think=think):
        assert (found.called, found.content) == (calls_of(known), "")


def test_a_limit_within_the_reasoning(client: httpx.Client) -> None:
    known = case("qwen3", "call")
    for tokens in (1, 2, 4):
        for found in limited(client, "qwen3", known, tokens):
            assert (found.content, found.called, found.reason) == ("", [], "length")
            assert known.thinking.startswith(found.thinking)
            assert bool(found.thinking) is (tokens > 2)


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_within_a_call(
    client: httpx.Client, kind: Kind, think: bool | None, stream: bool
) -> None:
    known = case(kind, "call")
    options = GREEDY | {"stop": ["aris"]}
    found = answer(client, kind, known, options=options, stream=stream, think=think)
    assert (found.called, found.reason) == ([], "stop")
    assert found.content == WRITE[kind](*known.calls).partition("aris")[0]


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_before_a_call(client: httpx.Client, stream: bool) -> None:
    known = case("qwen3", "text_and_call")
    found = answer(client, "qwen3", known, options=GREEDY | {"stop": ["check"]}, stream=stream)
    assert (found.thinking, found.content, found.called) == (known.thinking, "Let me ", [])
    assert found.reason == "stop"


@pytest.mark.row("A7")
@pytest.mark.parametrize("stream", [True, False])
def test_a_format_with_tools_at_hand(client: httpx.Client, stream: bool) -> None:
    """What comes is the object that was asked for and no call, though calls of `llama` are bare JSON too."""
    person = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    known = case("llama", "json_with_tools")
    found = answer(client, "llama", known, format=person | {"required": ["name", "age"]}, stream=stream)
    assert (found.content, found.called, found.reason) == (PERSON, [], "stop")
    known = case("qwen3", "call")
    options = GREEDY | {"num_predict": 30}
    found = answer(client, "qwen3", known, format="json", stream=stream, options=options)
    assert (found.thinking, found.content[:1], found.called) == (known.thinking, "{", [])


def test_a_tool_that_has_no_parameters_and_one_that_has_no_name(client: httpx.Client) -> None:
    for tool in ({"type": "function", "function": {"name": "f"}}, {"type": "function"}, {}):
        found = ask(client, "tool", [user("Hello")], tools=[tool], options=GREEDY | {"num_predict": 4})
        assert found.tokens == 4


async def test_many_chats_of_all_kinds_at_once(server: LiveServer) -> None:
    """None gets what another was told."""
    known = [each for each in QWEN3 if each.name != "story" and not each.prefilled] * 2
    modes = [{"think": at % 3 != 0, "stream": at % 2 == 0} for at, _ in enumerate(known)]
    bodies = [asked("qwen3", each, **mode) for each, mode in zip(known, modes, strict=True)]
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        answers = await asyncio.gather(*(client.post("/api/chat", json=body) for body in bodies))
    found = [reply_of(response) for response in answers]
    for reply, each, mode in zip(found, known, modes, strict=True):
        assert_told(reply, each, mode["think"])
    ids = [call["id"] for reply in found for call in reply.calls]
    assert len(set(ids)) == len(ids) == sum(len(each.calls) for each in known)
