"""Asks the native routes and reads what they answer: NDJSON lines, documents and the text in them."""

import json
from typing import Any, TypeAlias

import httpx

Line: TypeAlias = dict[str, Any]

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"


def generate(client: httpx.Client, model: str = "plain", **fields: Any) -> httpx.Response:
    return client.post("/api/generate", json={"model": model, **fields})


def whole(client: httpx.Client, model: str = "plain", **fields: Any) -> Line:
    """The one document of an answer of generate that is not streamed."""
    answer = generate(client, model, stream=False, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def lines(response: httpx.Response) -> list[Line]:
    """The lines of a stream, whose form is checked on the way (docs/reference 1.9)."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == NDJSON
    *rows, end = response.content.split(b"\n")
    assert end == b"", "the last line has no line break"
    return [json.loads(row) for row in rows]


def text(parts: list[Line]) -> str:
    """What was answered, by either route."""
    return "".join(part["message"]["content"] if "message" in part else part["response"] for part in parts)


def thinking(parts: list[Line]) -> str:
    """What was thought before the answer, by either route."""
    return "".join(part.get("message", part).get("thinking", "") for part in parts)


def in_engines(client: httpx.Client) -> float:
    """How many requests run or wait in any engine."""
    gauges = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    rows = [row for row in client.get("/metrics").text.splitlines() if row.startswith(gauges)]
    assert rows, "no engine is loaded"
    return sum(float(row.rsplit(" ", 1)[1]) for row in rows)
