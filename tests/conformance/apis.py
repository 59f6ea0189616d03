"""The APIs that answer chats, each as the suite sees it: how to ask, and what an answer says."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

TOOL: Mapping[str, Any] = {
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


@dataclass
class Said:
    """What an answer came to; `end` is why it ended: stop, length, tools or error."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    end: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Api:
    """One API. `body` makes a request of (text, stream, features); `whole` and `stream` read answers."""

    name: str
    path: str
    body: Callable[..., dict[str, Any]]
    whole: Callable[[Mapping[str, Any]], Said]
    stream: Callable[[str], Said]
    error: Callable[[Mapping[str, Any]], str]
    """The text of an error's document."""


def _ollama_body(text: str, *, stream: bool, **wanted: Any) -> dict[str, Any]:
    options = {"num_predict": wanted.get("most")} if wanted.get("most") else {}
    if wanted.get("stop"):
        options["stop"] = [wanted["stop"]]
    return {
        "model": wanted.get("model", "m"),
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
        "options": options,
        **({"tools": [{"type": "function", "function": TOOL}]} if wanted.get("tool") else {}),
        **({"format": SCHEMA} if wanted.get("schema") else {}),
        **({"think": True} if wanted.get("think") else {}),
    }


_OLLAMA_ENDS = {"stop": "stop", "length": "length", "tool_calls": "tools"}


def _ollama_whole(document: Mapping[str, Any]) -> Said:
    message = document["message"]
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())
    ]
    return Said(
        message["content"],
        message.get("thinking", ""),
        calls,
        _OLLAMA_ENDS[document["done_reason"]],
        document.get("prompt_eval_count", 0),
        document.get("eval_count", 0),
    )


def _ollama_stream(text: str) -> Said:
    said = Said()
    for line in map(json.loads, text.splitlines()):
        if "error" in line:
            said.end = "error"
            continue
        message = line["message"]
        said.text += message["content"]
        said.thinking += message.get("thinking", "")
        said.calls += [
            (call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls", ())
        ]
        if line["done"]:
            said.end = _OLLAMA_ENDS[line["done_reason"]]
            said.prompt_tokens, said.output_tokens = line["prompt_eval_count"], line.get("eval_count", 0)
    return said


def _openai_body(text: str, *, stream: bool, **wanted: Any) -> dict[str, Any]:
    return {
        "model": wanted.get("model", "m"),
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
        **({"max_completion_tokens": wanted["most"]} if wanted.get("most") else {}),
        **({"stop": [wanted["stop"]]} if wanted.get("stop") else {}),
        **({"tools": [{"type": "function", "function": TOOL}]} if wanted.get("tool") else {}),
        **({"reasoning_effort": "high"} if wanted.get("think") else {}),
        **(
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}
            if wanted.get("schema")
            else {}
        ),
    }


_OPENAI_ENDS = {"stop": "stop", "length": "length", "tool_calls": "tools"}


def _openai_calls(items: Iterable[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    return [(item["function"]["name"], json.loads(item["function"]["arguments"])) for item in items]


def _openai_whole(document: Mapping[str, Any]) -> Said:
    (choice,) = document["choices"]
    message, usage = choice["message"], document["usage"]
    return Said(
        message["content"] or "",
        message.get("reasoning") or "",
        _openai_calls(message.get("tool_calls") or ()),
        _OPENAI_ENDS[choice["finish_reason"]],
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


def events(text: str) -> Iterator[tuple[str, Any]]:
    """Server-sent events: the name, "" where there is none, and the decoded data (None for `[DONE]`)."""
    for block in filter(None, text.split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        data = fields["data"]
        yield fields.get("event", ""), None if data == "[DONE]" else json.loads(data)


def _openai_stream(text: str) -> Said:
    said, done = Said(), False
    for _, chunk in events(text):
        if chunk is None:
            done = True
        elif "error" in chunk:
            said.end = "error"
        else:
            for choice in chunk["choices"]:
                delta = choice["delta"]
                said.text += delta.get("content") or ""
                said.thinking += delta.get("reasoning") or ""
                said.calls += _openai_calls(delta.get("tool_calls") or ())
                if choice["finish_reason"]:
                    said.end = _OPENAI_ENDS[choice["finish_reason"]]
            if usage := chunk.get("usage"):
                said.prompt_tokens, said.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    assert done is (said.end != "error"), "a stream that is whole says so"
    return said


def _responses_body(text: str, *, stream: bool, **wanted: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "name": "a", "schema": SCHEMA}
    return {
        "model": wanted.get("model", "m"),
        "input": text,
        "stream": stream,
        **({"max_output_tokens": wanted["most"]} if wanted.get("most") else {}),
        **({"tools": [{"type": "function", **TOOL}]} if wanted.get("tool") else {}),
        **({"reasoning": {"effort": "high"}} if wanted.get("think") else {}),
        **({"text": {"format": form}} if wanted.get("schema") else {}),
    }


def _responses_whole(document: Mapping[str, Any]) -> Said:
    said = Said()
    for item in document["output"]:
        match item["type"]:
            case "message":
                said.text += "".join(part["text"] for part in item["content"])
            case "reasoning":
                said.thinking += "".join(part["text"] for part in item["summary"])
            case "function_call":
                said.calls.append((item["name"], json.loads(item["arguments"])))
            case _:
                raise AssertionError(item)
    said.end = "length" if document["incomplete_details"] else "tools" if said.calls else "stop"
    said.prompt_tokens = document["usage"]["input_tokens"]
    said.output_tokens = document["usage"]["output_tokens"]
    return said


def _responses_stream(text: str) -> Said:
    deltas, last = Said(), Said()
    for number, (name, event) in enumerate(events(text)):
        assert event["type"] == name
        assert event["sequence_number"] == number
        match name:
            case "response.output_text.delta":
                deltas.text += event["delta"]
            case "response.reasoning_summary_text.delta":
                deltas.thinking += event["delta"]
            case "response.completed" | "response.incomplete":
                last = _responses_whole(event["response"])
            case "response.failed" | "error":
                last.end = "error"
            case _:
                pass
    if last.end != "error":
        assert (deltas.text, deltas.thinking) == (last.text, last.thinking)
    else:
        last.text = deltas.text
    return last


def _messages_body(text: str, *, stream: bool, **wanted: Any) -> dict[str, Any]:
    tool = {"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}
    return {
        "model": wanted.get("model", "m"),
        "max_tokens": wanted.get("most") or 1000,
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
        **({"stop_sequences": [wanted["stop"]]} if wanted.get("stop") else {}),
        **({"tools": [tool]} if wanted.get("tool") else {}),
        **({"thinking": {"type": "enabled", "budget_tokens": 1024}} if wanted.get("think") else {}),
        **(
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
            if wanted.get("schema")
            else {}
        ),
    }


_MESSAGES_ENDS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tools"}


def _block(said: Said, block: Mapping[str, Any]) -> None:
    match block["type"]:
        case "text":
            said.text += block["text"]
        case "thinking":
            said.thinking += block["thinking"]
        case "tool_use":
            said.calls.append((block["name"], block["input"]))
        case _:
            raise AssertionError(block)


def _messages_whole(document: Mapping[str, Any]) -> Said:
    said = Said()
    for block in document["content"] or ():
        _block(said, block)
    said.end = _MESSAGES_ENDS[document["stop_reason"]]
    said.prompt_tokens = document["usage"]["input_tokens"]
    said.output_tokens = document["usage"]["output_tokens"]
    return said


def _grow(block: dict[str, Any], delta: dict[str, Any]) -> None:
    kind = delta["type"].removesuffix("_delta")
    if kind == "input_json":
        block["input"] = json.loads(delta["partial_json"])
    else:
        block[kind] += delta[kind]


def _messages_stream(text: str) -> Said:
    said, blocks, ended = Said(), dict[int, dict[str, Any]](), False
    for name, event in events(text):
        assert event["type"] == name
        match name:
            case "content_block_start":
                blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                _grow(blocks[event["index"]], event["delta"])
            case "message_delta":
                said.end = _MESSAGES_ENDS[event["delta"]["stop_reason"]]
                said.prompt_tokens = event["usage"]["input_tokens"]
                said.output_tokens = event["usage"]["output_tokens"]
            case "message_stop":
                ended = True
            case "error":
                said.end = "error"
            case _:
                assert name in ("message_start", "ping", "content_block_stop")
    assert ended is (said.end != "error"), "a stream that is whole says so"
    for block in blocks.values():
        _block(said, block)
    return said


def _message(document: Mapping[str, Any]) -> str:
    return str(document["error"]["message"])


APIS = (
    Api("ollama", "/api/chat", _ollama_body, _ollama_whole, _ollama_stream, lambda each: str(each["error"])),
    Api("openai", "/v1/chat/completions", _openai_body, _openai_whole, _openai_stream, _message),
    Api("responses", "/v1/responses", _responses_body, _responses_whole, _responses_stream, _message),
    Api("messages", "/v1/messages", _messages_body, _messages_whole, _messages_stream, _message),
)
