"""The Messages API on the real engine: the test models answer it as they answer `/api/chat`."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.resources import Messages

from harness.models.catalogue import CASES, Case, Kind
from harness.server import LiveServer

pytestmark = [pytest.mark.engine, pytest.mark.row("A9", "C7")]

MODELS: dict[Kind, str] = {"qwen3": "tool", "llama": "llama"}
ANSWER_S = 120
EVERY = [
    pytest.param(kind, known, think, id=f"{MODELS[kind]}-{known.name}{'-think' * bool(think)}")
    for kind in MODELS
    for known in CASES[kind]
    for think in ((True, False) if kind == "qwen3" else (None,))
]


@pytest.fixture(scope="module")
def messages(server: LiveServer) -> Iterator[Messages]:
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0, timeout=ANSWER_S) as client:
        yield client.messages


def body_of(kind: Kind, known: Case, think: bool | None) -> dict[str, Any]:
    """The case in Anthropic's shape."""
    turns = [_turn(message) for message in known.messages if message["role"] != "system"]
    system = [message["content"] for message in known.messages if message["role"] == "system"]
    on = {"type": "enabled", "budget_tokens": 1024}
    switch = {} if think is None else {"thinking": on if think else {"type": "disabled"}}
    return {
        "model": MODELS[kind],
        "max_tokens": 2048,
        "extra_body": {"temperature": 0},  # which this client knows no more
        "messages": turns,
        **({"system": system[0]} if system else {}),
        **({"tools": [_tool(tool["function"]) for tool in known.tools]} if known.tools else {}),
        **switch,
    }


def _tool(function: dict[str, Any]) -> dict[str, Any]:
    told = {key: function[key] for key in ("name", "description")}
    return {**told, "input_schema": function["parameters"]}


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        result = {"type": "tool_result", "tool_use_id": message["tool_name"], "content": message["content"]}
        return {"role": "user", "content": [result]}
    blocks: list[dict[str, Any]] = []
    if "thinking" in message:
        blocks.append({"type": "thinking", "thinking": message["thinking"], "signature": ""})
    if message["content"]:
        blocks.append({"type": "text", "text": message["content"]})
    for call in message.get("tool_calls", ()):
        called = call["function"]
        name = called["name"]
        blocks.append({"type": "tool_use", "id": name, "name": name, "input": called["arguments"]})
    return {"role": message["role"], "content": blocks}


def told(message: Any) -> tuple[str, str, list[tuple[str, str]], str]:
    """Thinking, text, calls and why it ended."""
    blocks = message.content
    return (
        "".join(block.thinking for block in blocks if block.type == "thinking"),
        "".join(block.text for block in blocks if block.type == "text"),
        [(block.name, json.dumps(block.input)) for block in blocks if block.type == "tool_use"],
        message.stop_reason,
    )


@pytest.mark.parametrize(("kind", "known", "think"), EVERY)
def test_every_transcript_is_told_whole_and_streamed(
    messages: Messages, kind: Kind, known: Case, think: bool | None
) -> None:
    body = body_of(kind, known, think)
    # A prefix that is gone on with leaves no room for reasoning.
    thought = known.thinking if think and not known.prefilled else ""
    calls = [(call.name, json.dumps(call.arguments)) for call in known.calls]
    expected = (thought, known.content, calls, "tool_use" if calls else "end_turn")
    whole = messages.create(**body)
    assert told(whole) == expected
    with messages.stream(**body) as stream:
        final = stream.get_final_message()
    assert told(final) == expected
    counted = {key: value for key, value in body.items() if key not in ("max_tokens", "extra_body")}
    for usage in (whole.usage, final.usage):
        assert usage.output_tokens > 0
        cached = usage.cache_read_input_tokens or 0
        assert messages.count_tokens(**counted).input_tokens == usage.input_tokens + cached
