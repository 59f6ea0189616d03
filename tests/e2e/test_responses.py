"""Transcripts of the test models by `/v1/responses` on the real engine (docs/reference 14)."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from harness.models.catalogue import CASES, Case, Kind, case
from tests.api.responding import events_of

pytestmark = pytest.mark.engine

MODELS: dict[Kind, str] = {"qwen3": "tool", "llama": "llama"}
CALLING = [
    pytest.param(kind, known, id=f"{MODELS[kind]}-{known.name}")
    for kind in MODELS
    for known in CASES[kind]
    if not known.prefilled
]


def items_of(known: Case) -> Iterator[dict[str, Any]]:
    """The messages of a transcript as items; calls have no ids there, so they are counted here."""
    made = answered = 0
    for message in known.messages:
        if message["role"] == "tool":
            yield {"type": "function_call_output", "call_id": f"c{answered}", "output": message["content"]}
            answered += 1
            continue
        if message.get("thinking"):
            yield {"type": "reasoning", "summary": [], "encrypted_content": message["thinking"]}
        if message.get("content"):
            yield {"role": message["role"], "content": message["content"]}
        for call in message.get("tool_calls", ()):
            function = call["function"]
            yield {
                "type": "function_call",
                "call_id": f"c{made}",
                "name": function["name"],
                "arguments": json.dumps(function["arguments"]),
            }
            made += 1


def body_of(kind: Kind, known: Case, **fields: Any) -> dict[str, Any]:
    tools = [{"type": "function", **tool["function"]} for tool in known.tools]
    body = {"model": MODELS[kind], "input": list(items_of(known)), "tools": tools, "temperature": 0}
    return {**body, **({"think": False} if kind == "qwen3" else {}), **fields}


def told(response: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """The text of an answer, and its calls with their arguments as text, since the order counts."""
    texts = [part["text"] for item in response["output"] for part in item.get("content", ())]
    calls = [
        (item["name"], json.dumps(json.loads(item["arguments"])))
        for item in response["output"]
        if item["type"] == "function_call"
    ]
    return "".join(texts), calls


@pytest.mark.parametrize(("kind", "known"), CALLING)
def test_transcripts(client: httpx.Client, kind: Kind, known: Case) -> None:
    expected = known.content, [(call.name, json.dumps(call.arguments)) for call in known.calls]
    answer = client.post("/v1/responses", json=body_of(kind, known))
    assert answer.status_code == 200, answer.text
    assert told(answer.json()) == expected
    streamed = client.post("/v1/responses", json=body_of(kind, known, stream=True))
    events = events_of(streamed.text)
    assert events[-1]["type"] == "response.completed"
    assert told(events[-1]["response"]) == expected
    assert answer.json()["usage"]["output_tokens"] == events[-1]["response"]["usage"]["output_tokens"] > 0


def test_reasoning_is_an_item(client: httpx.Client) -> None:
    known = case("qwen3", "text_and_call")
    answer = client.post("/v1/responses", json=body_of("qwen3", known, think=None, reasoning={}))
    kinds = [item["type"] for item in answer.json()["output"]]
    assert kinds == ["reasoning", "message", "function_call"]
    assert answer.json()["output"][0]["summary"][0]["text"] == known.thinking


def test_a_call_that_is_demanded(client: httpx.Client) -> None:
    """Of a model that would have answered in words, which the constraint leaves it no room for."""
    tools = [{"type": "function", "name": "pick", "parameters": {"type": "object", "properties": {}}}]
    body = {"model": "tool", "input": "Hi", "tools": tools, "think": False, "max_output_tokens": 64}
    answer = client.post("/v1/responses", json={**body, "tool_choice": {"type": "function", "name": "pick"}})
    assert answer.status_code == 200, answer.text
    [item] = answer.json()["output"]
    assert (item["type"], item["name"]) == ("function_call", "pick")


def test_a_schema(client: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "name": "x", "schema": {**schema, "additionalProperties": False}}
    body = {"model": "plain", "input": "Hi", "text": {"format": wanted}, "max_output_tokens": 32}
    answer = client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    text, _ = told(answer.json())
    assert set(json.loads(text)) == {"a"}
