"""The example requests of both APIs that this server stands in for, streaming and not, with a key.

They are shaped as the requirement rows say. The second API differs from Ollama in two settings.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app.access.keys import new_key
from app.catalogue.library import Library
from app.core.events import Content, ToolCall
from app.core.request import Constraint
from app.engine.base import Prompt, Run
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.main import build_app
from app.settings.server import read_settings
from harness.fake_model import fake_model

KEY, HASH = new_key("client")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city"}},
            "required": ["city"],
        },
    },
}
OPTIONS = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "num_predict": 128,
    "num_ctx": 2048,
    "stop": ["END"],
    "seed": 42,
}
HISTORY = [
    {"role": "user", "content": "What is the weather?"},
    {"role": "assistant", "content": "Where?"},
    {"role": "user", "content": "In Paris."},
]
A: Mapping[str, Mapping[str, Any]] = {
    "plain": {"model": "m", "messages": HISTORY},
    "options": {"model": "m", "messages": HISTORY, "options": OPTIONS},
    "system": {"model": "m", "messages": [{"role": "system", "content": "Be brief."}, *HISTORY]},
    "tools": {"model": "m", "messages": HISTORY, "tools": [WEATHER]},
    "json": {"model": "m", "messages": HISTORY, "format": "json"},
}
"""What the first one shows (rows A1 to A8)."""

B: Mapping[str, Mapping[str, Any]] = {
    "plain": {"model": "m", "messages": HISTORY},
    "system": {"model": "m", "system": "Be brief.", "messages": HISTORY},
    "options": {"model": "m", "messages": HISTORY, "options": OPTIONS},
}
"""What the second one shows (rows B1 to B9)."""

THEIRS = {"stream_default": False, "repeat_text": True}


def script(_: Prompt, run: Run) -> Reply:
    """A model that does as it is told."""
    if run.chat.tools:
        call = ToolCall(0, "call_1", "get_weather", {"city": "Paris"})
        return Reply(("<call>",), events=([], [call]))
    if isinstance(run.constraint, Constraint):
        return Reply(('{"sunny":', " true}"))
    return Reply(("It", " is", " sunny."), events=([Content("It")], [Content(" is")], [Content(" sunny.")]))


class Site:
    """A server with keys, a client that has one, and its engine."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.engine = FakeEngine(script)

    async def ask(self, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The documents of an answer, whose type must be that of what they are."""
        answer = await self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        lines = [json.loads(line) for line in answer.text.splitlines()]
        kind = "application/x-ndjson" if len(lines) > 1 else "application/json; charset=utf-8"
        assert answer.headers["content-type"] == kind
        return lines


@asynccontextmanager
async def site(folder: Path, **settings: Any) -> AsyncGenerator[Site]:
    file = folder / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": [{"id": "client", "hash": HASH, "scopes": ["inference"]}]}))

    async def start(_: object) -> FakeEngine:
        return made.engine

    app = build_app(
        read_settings(preload=False, keys_file=file, **settings), Library([fake_model("m")]), start
    )
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", headers=headers
    ) as client:
        made = Site(client)
        yield made


def text(line: Mapping[str, Any]) -> str:
    return line["message"]["content"] if "message" in line else line["response"]


def check_end(line: Mapping[str, Any], reason: str) -> None:
    assert (line["done"], line["done_reason"]) == (True, reason)
    for count in ("prompt_eval_count", "eval_count", "total_duration", "eval_duration"):
        assert isinstance(line[count], int), count


@pytest.mark.row("A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "A9")
@pytest.mark.parametrize("stream", [None, True, False])
@pytest.mark.parametrize("name", A)
async def test_the_first_api_s_examples(tmp_path: Path, name: str, stream: bool | None) -> None:
    body = dict(A[name]) if stream is None else {**A[name], "stream": stream}
    async with site(tmp_path) as made:
        lines = await made.ask("/api/chat", body)
        run = made.engine.asked[-1].run
    assert (len(lines) > 1) == (stream is not False)
    calls = [call for line in lines for call in line["message"].get("tool_calls", ())]
    said = "".join(map(text, lines))
    if name == "tools":
        check_end(lines[-1], "tool_calls")
        assert [call["function"]["name"] for call in calls] == ["get_weather"]
        assert [call["function"]["arguments"] for call in calls] == [{"city": "Paris"}]
    else:
        check_end(lines[-1], "stop")
        assert said == ('{"sunny": true}' if name == "json" else "It is sunny.")
        assert calls == []
    if stream is not False:
        assert text(lines[-1]) == ""
    if name == "options":
        sampling = run.sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.9, 40)
        assert (sampling.seed, sampling.stop, run.max_tokens) == (42, ("END",), 128)


@pytest.mark.row("B1", "B2", "B3", "B4", "B6", "B7", "B9")
@pytest.mark.parametrize("stream", [None, True, False])
@pytest.mark.parametrize("name", B)
async def test_the_second_api_s_examples(tmp_path: Path, name: str, stream: bool | None) -> None:
    body = dict(B[name]) if stream is None else {**B[name], "stream": stream}
    async with site(tmp_path, **THEIRS) as made:
        lines = await made.ask("/api/chat", body)
        [*_, rendering] = made.engine.renderings
    assert (len(lines) > 1) == (stream is True)
    check_end(lines[-1], "stop")
    assert text(lines[-1]) == "It is sunny."
    assert "".join(map(text, lines[:-1])) == ("It is sunny." if stream else "")
    first = rendering.chat.messages[0]
    assert (first.role == "system" and first.text == "Be brief.") == (name == "system")


@pytest.mark.row("B4", "B7", "B10")
@pytest.mark.parametrize("settings", [{}, THEIRS], ids=["ollama's", "theirs"])
async def test_both_settings_hold_for_generate_too(tmp_path: Path, settings: dict[str, Any]) -> None:
    body = {"model": "m", "prompt": "Hi"}
    async with site(tmp_path, **settings) as made:
        silent = await made.ask("/api/generate", body)
        streamed = await made.ask("/api/generate", {**body, "stream": True})
    assert (len(silent) > 1) == (not settings)
    assert text(streamed[-1]) == ("It is sunny." if settings else "")
    assert "".join(map(text, streamed[:-1])) == "It is sunny."


@pytest.mark.row("B5", "B10")
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize(
    "datai",
    [
        {"tools": {"net": True, "webview": True}},
        {"tools": {"net": True, "webview": False}},
        {"Tools": {"NET": True}},
    ],
    ids=str,
)
async def test_built_in_tools_are_refused_where_they_are_off(
    tmp_path: Path, path: str, datai: object
) -> None:
    """They are not there, and an answer made without them would look like the model's fault."""
    async with site(tmp_path, **THEIRS) as made:
        answer = await made.client.post(path, json={"model": "m", "messages": HISTORY, "datai": datai})
        assert made.engine.asked == type(made.engine.asked)()
    assert answer.status_code == 400
    assert "this server has not turned on the built-in tool 'net'" in answer.json()["error"]


@pytest.mark.row("B5")
@pytest.mark.parametrize(
    "datai", [None, {}, {"tools": None}, {"tools": {"net": False}}, {"tools": {}}], ids=str
)
async def test_a_request_for_no_built_in_tool_is_answered(tmp_path: Path, datai: object) -> None:
    async with site(tmp_path) as made:
        lines = await made.ask("/api/chat", {**B["plain"], "datai": datai, "stream": False})
    assert text(lines[0]) == "It is sunny."


@pytest.mark.row("B5")
async def test_what_datai_cannot_be(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        answer = await made.client.post("/api/chat", json={**B["plain"], "datai": True})
    assert (answer.status_code, answer.json()) == (400, {"error": "datai must be an object"})
