"""The API of OpenAI that other servers speak: server-sent events."""

import re
from typing import Any

from loadtest.apis.base import KINDS, Ask, BadAnswer, Json, Reply
from loadtest.apis.events import data_of, read_object


class OpenAI:
    kinds = frozenset(KINDS)
    has_text = re.compile(rb'"(?:content|text|reasoning|reasoning_content)": ?"[^"]|"tool_calls": ?\[ ?\{')

    def request(self, ask: Ask) -> tuple[str, Json]:
        if ask.kind == "embed":
            return "/v1/embeddings", {"model": ask.model, "input": ask.text}
        body: Json = {
            "model": ask.model,
            "max_tokens": ask.most_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if ask.kind == "generate":
            return "/v1/completions", body | {"prompt": ask.text}
        body["messages"] = list(ask.messages)
        if ask.schema:
            shape = {"name": "answer", "schema": ask.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        if ask.tools:
            body["tools"] = list(ask.tools)
        return "/v1/chat/completions", body

    def reply(self, ask: Ask, body: bytes) -> Reply:
        if ask.kind == "embed":
            answer = _object(body)
            return Reply(prompt_tokens=answer["usage"]["prompt_tokens"], vectors=len(answer["data"]))
        events = data_of(body)
        if not events or events[-1] != b"[DONE]":
            raise BadAnswer("the stream ends without [DONE]")
        chunks = [_object(event) for event in events[:-1]]
        usage = next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), None)
        if usage is None:
            raise BadAnswer("no usage")
        choices: list[Json] = [choice for chunk in chunks for choice in chunk["choices"]]
        if not any(choice.get("finish_reason") for choice in choices):
            raise BadAnswer("no finish_reason")
        deltas: list[Json] = [choice.get("delta") or {} for choice in choices]
        return Reply(
            text="".join(choice.get("text") or "" for choice in choices)
            + "".join(delta.get("content") or "" for delta in deltas),
            prompt_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
            calls=_calls(deltas),
            cut_at_limit=any(choice.get("finish_reason") == "length" for choice in choices),
        )


def _calls(deltas: list[Json]) -> list[tuple[str, Any]]:
    """The calls that the pieces add up to, by their index."""
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for delta in deltas:
        for piece in delta.get("tool_calls") or ():
            index, function = piece["index"], piece.get("function") or {}
            names[index] = names.get(index, "") + (function.get("name") or "")
            arguments[index] = arguments.get(index, "") + (function.get("arguments") or "")
    return [(names[index], _object(arguments[index].encode())) for index in names]


def _object(text: bytes) -> Json:
    found = read_object(text)
    if found.get("error"):
        raise BadAnswer(f"error line: {found['error']}")
    return found
