"""Ollama's own API: NDJSON streams."""

import re
from collections.abc import Mapping
from typing import Any

from loadtest.apis.base import KINDS, Ask, BadAnswer, Json, Reply
from loadtest.apis.events import read_object


class Ollama:
    kinds = frozenset(KINDS)
    has_text = re.compile(rb'"(?:content|response|thinking)": ?"[^"]|"tool_calls": ?\[')

    def request(self, ask: Ask) -> tuple[str, Json]:
        if ask.kind == "embed":
            return "/api/embed", {"model": ask.model, "input": ask.text}
        body: Json = {"model": ask.model, "options": {"num_predict": ask.most_tokens}}
        if ask.kind == "generate":
            return "/api/generate", body | {"prompt": ask.text}
        body["messages"] = list(ask.messages)
        if ask.schema:
            body["format"] = ask.schema
        if ask.tools:
            body["tools"] = list(ask.tools)
        return "/api/chat", body

    def reply(self, ask: Ask, body: bytes) -> Reply:
        if ask.kind == "embed":
            answer = _object(body)
            return Reply(prompt_tokens=_count(answer, "prompt_eval_count"), vectors=len(answer["embeddings"]))
        lines = [_object(line) for line in body.splitlines()]
        if not lines or not lines[-1].get("done"):
            raise BadAnswer("the stream ends without a done line")
        if any(line.get("done") for line in lines[:-1]):
            raise BadAnswer("lines after the done line")
        last = lines[-1]
        messages: list[Mapping[str, Any]] = [line.get("message", {}) for line in lines]
        return Reply(
            text="".join(line.get("response", "") for line in lines)
            + "".join(message.get("content", "") for message in messages),
            prompt_tokens=_count(last, "prompt_eval_count"),
            output_tokens=_count(last, "eval_count"),
            calls=[
                (call["function"]["name"], call["function"]["arguments"])
                for message in messages
                for call in message.get("tool_calls") or ()
            ],
            cut_at_limit=last.get("done_reason") == "length",
        )


def _object(line: bytes) -> Json:
    found = read_object(line)
    if "error" in found:
        raise BadAnswer(f"error line: {found['error']}")
    return found


def _count(line: Json, name: str) -> int:
    if not isinstance(count := line.get(name), int) or count < 1:
        raise BadAnswer(f"no {name}")
    return count
