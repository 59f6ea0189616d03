"""Many requests at once: every answer is complete, and every client gets its own."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from harness.models.catalogue import QWEN3, Case
from harness.server import LiveServer

pytestmark = pytest.mark.engine

MANY = 64
SWITCHES = [(case, think) for case in QWEN3 for think in (True, False) if case.thinking or not think]
ASKED = list(itertools.islice(itertools.cycle(SWITCHES), MANY))


@pytest_asyncio.fixture
async def http(server: LiveServer) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
        yield client


async def ask(http: httpx.AsyncClient, case: Case, *, think: bool, stream: bool) -> dict[str, Any]:
    """The answer as one message; it must have come to its own end."""
    body = {
        "model": "tool",
        "messages": case.messages,
        "tools": case.tools,
        "think": think,
        "stream": stream,
        "options": {"temperature": 0, "num_predict": 1000},
    }
    answer = await http.post("/api/chat", json=body)
    assert answer.status_code == 200, answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["done"] for line in lines] == [*[False] * (len(lines) - 1), True]
    assert lines[-1]["done_reason"] == ("tool_calls" if case.calls else "stop")
    assert len(lines) > 1 or not stream
    messages = [line["message"] for line in lines]
    return {
        "content": "".join(message["content"] for message in messages),
        "thinking": "".join(message.get("thinking", "") for message in messages),
        "calls": [call for message in messages for call in message.get("tool_calls", [])],
    }


def check(case: Case, got: dict[str, Any], *, think: bool) -> None:
    assert got["content"] == case.content, case.name
    assert got["thinking"] == (case.thinking if think else ""), case.name
    called = [(call["function"]["name"], call["function"]["arguments"]) for call in got["calls"]]
    assert called == [(call.name, call.arguments) for call in case.calls], case.name


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    "streams",
    [
        pytest.param([True], id="streams"),
        pytest.param([False], id="whole answers"),
        pytest.param([True, False, False], id="mixed"),
    ],
)
async def test_sixty_four_answers_at_once_do_not_mix(http: httpx.AsyncClient, streams: list[bool]) -> None:
    modes = itertools.cycle(streams)
    requests = (ask(http, case, think=think, stream=next(modes)) for case, think in ASKED)
    answers = await asyncio.gather(*requests)
    for (case, think), got in zip(ASKED, answers, strict=True):
        check(case, got, think=think)


async def test_short_answers_do_not_wait_for_long_ones(http: httpx.AsyncClient) -> None:
    story = next(case for case in QWEN3 if case.name == "story")
    hello = next(case for case in QWEN3 if case.name == "hello")
    ended: list[str] = []

    async def run(case: Case) -> None:
        await ask(http, case, think=False, stream=True)
        ended.append(case.name)

    await asyncio.gather(run(story), *(run(hello) for _ in range(8)))
    assert ended == ["hello"] * 8 + ["story"]
