"""Chats of both forms, streamed and whole, read into one shape and checked (docs/reference 7.5)."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.e2e.ollama_lines import JSON, NDJSON, Line, lines

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z"
METRICS = [
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_cached_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
]
GREEDY = {"temperature": 0}


@dataclass
class Reply:
    """An answer put together again; `parts` are its lines, the document being the only one."""

    parts: list[Line]
    thinking: str = ""
    content: str = ""
    calls: list[Line] = field(default_factory=list[Line])

    @property
    def reason(self) -> str:
        return self.parts[-1]["done_reason"]

    @property
    def tokens(self) -> int:
        return self.parts[-1]["eval_count"]

    @property
    def called(self) -> list[tuple[str, str]]:
        """Names and arguments; the latter as text, since the order of their keys counts."""
        return [(call["function"]["name"], json.dumps(call["function"]["arguments"])) for call in self.calls]


def body_of(model: str, messages: Iterable[Any] | None, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": messages and list(messages), **fields}


def chat(client: httpx.Client, model: str, messages: Iterable[Any] | None, **fields: Any) -> httpx.Response:
    return client.post("/api/chat", json=body_of(model, messages, **fields))


def ask(client: httpx.Client, model: str, messages: Iterable[Any], **fields: Any) -> Reply:
    return reply_of(chat(client, model, messages, **fields))


def reply_of(response: httpx.Response) -> Reply:
    if response.headers["content-type"] == NDJSON:
        parts = lines(response)
    else:
        assert (response.status_code, response.headers["content-type"]) == (200, JSON), response.text
        parts = [response.json()]
    reply = Reply(parts)
    for part in parts:
        _add(reply, part, is_last=part is parts[-1])
    _check_calls(reply.calls)
    return reply


def _add(reply: Reply, part: Line, *, is_last: bool) -> None:
    message = part["message"]
    assert part["done"] is is_last
    assert list(part)[:4] == ["model", "created_at", "message", "done"]
    assert re.fullmatch(STAMP, part["created_at"])
    assert list(message)[:2] == ["role", "content"]
    assert message["role"] == "assistant"
    assert set(message) <= {"role", "content", "thinking", "tool_calls"}
    assert all(message.get(name, "x") for name in ("thinking", "tool_calls")), "what is empty is left out"
    assert ([key for key in part if key in METRICS] == METRICS) is is_last
    reply.thinking += message.get("thinking", "")
    reply.content += message["content"]
    reply.calls += message.get("tool_calls", ())


def _check_calls(calls: Sequence[Line]) -> None:
    """The form of 8.2: a whole object with an id of its own and the number of the call."""
    for number, call in enumerate(calls):
        assert list(call) == ["id", "function"]
        assert re.fullmatch("call_[a-z0-9]{8}", call["id"])
        assert list(call["function"]) == ["index", "name", "arguments"]
        assert call["function"]["index"] == number
        assert isinstance(call["function"]["arguments"], dict)
    assert len({call["id"] for call in calls}) == len(calls)


def rendered(client: httpx.Client, model: str, messages: Iterable[Any], **fields: Any) -> str:
    """The prompt as the model would get it."""
    answer = chat(client, model, messages, _debug_render_only=True, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["_debug_info"]["rendered_template"]


def assert_refused(answer: httpx.Response, error: str, status: int = 400) -> None:
    assert (answer.status_code, answer.json()) == (status, {"error": error})
    assert answer.headers["content-type"] == JSON
