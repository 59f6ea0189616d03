"""Tool calls and thinking through the real engine: every transcript that the test models know, both modes."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from tests.models.catalogue import CASES, Case
from tests.server import LiveServer

pytestmark = pytest.mark.engine

SERVED = {"qwen3": "tool", "llama": "llama", "coder": "fim"}
CALL_ID = r"call_[a-z0-9]{8}"
GREEDY = {"temperature": 0}


def asked(model: str, case: Case, **more: Any) -> dict[str, Any]:
    body = {"model": model, "messages": list(case.messages), "tools": list(case.tools), "options": GREEDY}
    return body | more


def parts(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def joined(answer: list[dict[str, Any]], field: str) -> str:
    return "".join(part["message"].get(field, "") for part in answer)


def calls_of(answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [call for part in answer for call in part["message"].get("tool_calls", [])]


def check(case: Case, answer: list[dict[str, Any]], *, thought: bool) -> None:
    """Content, thinking and calls are the transcript's, and the last line tells how it ended."""
    assert joined(answer, "content") == case.content
    assert joined(answer, "thinking") == (case.thinking if thought and not case.prefilled else "")
    calls = calls_of(answer)
    found = [(call["function"]["name"], json.dumps(call["function"]["arguments"])) for call in calls]
    assert found == [(call.name, json.dumps(call.arguments)) for call in case.calls]
    assert [call["function"]["index"] for call in calls] == list(range(len(calls)))
    assert all(list(call) == ["id", "function"] for call in calls)
    assert all(list(call["function"]) == ["index", "name", "arguments"] for call in calls)
    assert all(re.fullmatch(CALL_ID, call["id"]) for call in calls)
    assert len({call["id"] for call in calls}) == len(calls)
    assert answer[-1]["done"] is True
    assert answer[-1]["done_reason"] == ("tool_calls" if calls else "stop")
    assert answer[-1]["eval_count"] > 0


@pytest.mark.row("A6", "A8", "B1")
@pytest.mark.point(125, 126, 127, 128, 142, 144, 146, 147, 148)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("model", "case", "think"),
    [
        pytest.param(model, case, think, id=f"{model}-{case.name}-{think}")
        for kind, model in SERVED.items()
        for case in CASES[kind]
        for think in ((True, False) if kind == "qwen3" else (None,))
    ],
)
def test_a_transcript_comes_out_whole(
    client: httpx.Client, model: str, case: Case, think: bool | None, stream: bool
) -> None:
    answer = parts(client.post("/api/chat", json=asked(model, case, think=think, stream=stream)))
    check(case, answer, thought=think is True)
    assert (len(answer) == 1) is not stream
    if stream and case.thinking and think:
        kinds = ["thinking" if part["message"].get("thinking") else "" for part in answer]
        assert "thinking" not in kinds[kinds.index("") :], "thinking comes first"
        assert all(part["message"]["content"] == "" for part in answer if part["message"].get("thinking"))


@pytest.mark.point(147)
def test_a_streamed_call_has_a_line_of_its_own_before_the_last(client: httpx.Client) -> None:
    case = next(case for case in CASES["qwen3"] if len(case.calls) == 2)
    answer = parts(client.post("/api/chat", json=asked("tool", case, think=False)))
    with_calls = [part for part in answer if part["message"].get("tool_calls")]
    assert with_calls
    for part in with_calls:
        assert part["done"] is False
        assert part["message"]["content"] == ""


@pytest.mark.row("A5", "A6")
@pytest.mark.parametrize("kind", ["qwen3", "llama", "coder"])
def test_a_reply_cut_inside_a_call_delivers_no_half_call(client: httpx.Client, kind: Any) -> None:
    """At every length: what was written so far is content, or the call is whole."""
    case = next(case for case in CASES[kind] if len(case.calls) == 1 and case.content == "")
    whole = [(call.name, call.arguments) for call in case.calls]
    for tokens in (1, 2, 4, 8, 16, 24):
        body = asked(SERVED[kind], case, options=GREEDY | {"num_predict": tokens}, stream=False)
        if kind == "qwen3":
            body["think"] = False
        streamed = parts(client.post("/api/chat", json=body | {"stream": True}))
        answer = parts(client.post("/api/chat", json=body))
        assert joined(streamed, "content") == joined(answer, "content")
        found = [(call["function"]["name"], call["function"]["arguments"]) for call in calls_of(answer)]
        assert found in ([], whole)
        if not found:
            assert answer[-1]["done_reason"] == "length"
            assert case.reply.startswith(joined(answer, "content"))


@pytest.mark.row("A6", "C4")
async def test_mixed_chats_at_once_are_not_mixed_up(server: LiveServer) -> None:
    cases = [case for case in CASES["qwen3"] if not case.prefilled][:16]
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        bodies = [
            asked("tool", case, think=turn % 2 == 0, stream=turn % 3 > 0) for turn, case in enumerate(cases)
        ]
        answers = await asyncio.gather(*(client.post("/api/chat", json=body) for body in bodies))
    for turn, (case, answer) in enumerate(zip(cases, answers, strict=True)):
        check(case, parts(answer), thought=turn % 2 == 0)
