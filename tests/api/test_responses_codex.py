"""A session in the shapes that Codex sends, as public reports of its requests show them.

It tries a WebSocket first, packs bodies, offers free-form tools, namespaces and a search, sends back what it
got, and asks for a compaction when its context is full.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest
import zstandard

from app.core.errors import InvalidRequest
from app.core.events import Content, Event, Thinking, ToolCall
from app.core.request import ChatPrompt
from app.engine.base import Prompt, Run
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from tests.api.live import connect, read_to_end, response_of
from tests.api.responding import events_of, replying
from tests.e2e.fake_site import FakeSite, fake_site

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": "exec_command",
        "description": "Runs a command.",
        "strict": False,
        "parameters": {
            "type": "object",
            "properties": {"cmd": {"type": "string"}, "yield_time_ms": {"type": "number"}},
            "required": ["cmd"],
            "additionalProperties": False,
        },
    },
    {
        "type": "custom",
        "name": "apply_patch",
        "description": "Edits files.",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: begin_patch"},
    },
    {
        "type": "namespace",
        "name": "mcp__node_repl",
        "description": "A console.",
        "tools": [{"type": "function", "name": "js", "strict": False, "parameters": {"type": "object"}}],
    },
    {
        "type": "tool_search",
        "execution": "client",
        "description": "Finds tools.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
]
HEADERS = {
    "content-type": "application/json",
    "accept": "text/event-stream",
    "content-encoding": "zstd",
    "originator": "codex_cli_rs",
    "session_id": "0199a213-81a0-7800-8aa0-bbab2a035a53",
    "x-codex-turn-metadata": '{"turn_id":"1"}',
    "user-agent": "codex_cli_rs/0.153.4",
}
START: list[dict[str, Any]] = [
    {
        "type": "message",
        "role": "developer",
        "content": [{"type": "input_text", "text": "<permissions instructions>"}],
    },
    {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "<environment_context>"}],
    },
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Mend the test."}]},
]
TURNS: list[list[Event]] = [
    [Thinking("Look first."), ToolCall(0, "call_1", "exec_command", {"cmd": "ls"})],
    [Content("I need a tool."), ToolCall(0, "call_2", "tool_search", {"query": "orders"})],
    [ToolCall(0, "call_3", "orders.lookup", {"id": 7})],
    [ToolCall(0, "call_4", "mcp__node_repl.js", {"code": "1+1"})],
    [ToolCall(0, "call_5", "apply_patch", {"input": "*** Begin Patch\n*** End Patch"})],
    [Content("Done.")],
]
ANSWERS: Mapping[str, dict[str, Any]] = {
    "call_1": {"type": "function_call_output", "output": "a.py"},
    "call_2": {
        "type": "tool_search_output",
        "execution": "client",
        "status": "completed",
        "tools": [
            {
                "type": "namespace",
                "name": "orders",
                "description": "Orders.",
                "tools": [{"type": "function", "name": "lookup", "parameters": {"type": "object"}}],
            }
        ],
    },
    "call_3": {"type": "function_call_output", "output": "{}"},
    "call_4": {"type": "function_call_output", "output": [{"type": "input_text", "text": "2"}]},
    "call_5": {"type": "custom_tool_call_output", "output": "Success."},
}


def script(_: Prompt, run: Run) -> Reply:
    """The turn that follows from how many answers of tools there are; a summary where one is asked for."""
    names = {tool["function"]["name"] for tool in run.chat.tools}
    asked = run.chat.messages[0].text if run.chat.messages else ""
    if "create_summary" in names or asked.startswith("You make conversations short."):
        return replying(ToolCall(0, "c", "create_summary", {"summary": "All mended.", "retain_item_ids": []}))
    return replying(*TURNS[sum(each.role == "tool" for each in run.chat.messages) % len(TURNS)])


@pytest.fixture(scope="module")
def site() -> Iterator[FakeSite]:
    with fake_site(fake_model("m"), engine=lambda: FakeEngine(script, window=20_000)) as made:
        yield made


def send(site: FakeSite, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One request of Codex; the events of its answer."""
    body = {
        "model": "m",
        "instructions": "You are a coding agent.",
        "input": items,
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "service_tier": "priority",
        "prompt_cache_key": HEADERS["session_id"],
        "text": {"verbosity": "medium"},
        "client_metadata": {"x-codex-installation-id": "1"},
    }
    packed = zstandard.ZstdCompressor().compress(json.dumps(body).encode())
    answer = site.client.post("/v1/responses", content=packed, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


def test_a_session(site: FakeSite) -> None:
    """Each answer goes back as its `response.output_item.done` events had it, with what came of its calls."""
    history = list(START)
    calls: list[dict[str, Any]] = []
    for turn in range(len(TURNS)):
        events = send(site, history)
        assert events[-1]["type"] == "response.completed"
        items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert items == events[-1]["response"]["output"]
        made = [item for item in items if "call_id" in item]
        assert bool(made) == (turn < len(TURNS) - 1)
        history += items
        calls += made
        history += [{**ANSWERS[item["call_id"]], "call_id": item["call_id"]} for item in made]
    assert [(call["type"], call.get("namespace"), call.get("name")) for call in calls] == [
        ("function_call", None, "exec_command"),
        ("tool_search_call", None, None),
        ("function_call", "orders", "lookup"),
        ("function_call", "mcp__node_repl", "js"),
        ("custom_tool_call", None, "apply_patch"),
    ]
    assert calls[1]["arguments"] == {"query": "orders"}
    assert calls[4]["input"] == "*** Begin Patch\n*** End Patch"
    [engine] = site.engines
    chat = engine.renderings[-1].chat
    assert [each.role for each in chat.messages[:3]] == ["system", "user", "user"]
    assert [tool["function"]["name"] for tool in chat.tools][-1] == "orders.lookup"
    sent = [call.name for each in chat.messages for call in each.tool_calls]
    assert sent == ["exec_command", "tool_search", "orders.lookup", "mcp__node_repl.js", "apply_patch"]
    assert next(each.thinking for each in chat.messages if each.tool_calls) == "Look first."

    events = send(site, [*history, {"type": "compaction_trigger"}])
    [item] = events[-1]["response"]["output"]
    assert item["type"] == "compaction"
    events = send(site, [START[1], START[2], item, START[2]])
    chat = engine.renderings[-1].chat
    assert [each.role for each in chat.messages] == ["system", "user", "user", "assistant", "tool", "user"]
    assert chat.messages[4].text == "All mended."
    assert events[-1]["type"] == "response.completed"


class Strict(FakeEngine):
    """An engine whose template takes a system message at the front, then users and assistants in turn."""

    async def render(self, chat: ChatPrompt, **settings: Any) -> Prompt:
        roles = ["user" if each.role == "tool" else each.role for each in chat.messages]
        if "system" in roles[1:] or any(one == other == "user" for one, other in pairwise(roles)):
            raise InvalidRequest("System message must be at the beginning, and roles must alternate.")
        return await super().render(chat, **settings)


@pytest.mark.parametrize("stream", [True, False])
def test_a_template_that_refuses_the_shape_gets_a_plainer_one(stream: bool) -> None:
    """Else a session would end at Codex's first request, which has two messages of the user in a row."""
    said = {"role": "assistant", "content": "Hello."}
    late = {"role": "developer", "content": "New rules."}
    body = {"model": "m", "input": [*START, said, late, START[2]], "stream": stream, "instructions": "x"}
    with fake_site(fake_model("m"), engine=lambda: Strict({})) as site:
        answer = site.client.post("/v1/responses", json=body)
        assert answer.status_code == 200, answer.text
        [engine] = site.engines
        texts = [(each.role, each.text) for each in engine.renderings[-1].chat.messages]
        refused = site.client.post("/v1/responses", json={**body, "input": [late, said, said], "text": BAD})
    assert texts == [
        ("system", "x\n\n<permissions instructions>"),
        ("user", "<environment_context>\n\nMend the test."),
        ("assistant", "Hello."),
        ("user", "New rules.\n\nMend the test."),
    ]
    assert (refused.status_code, "unknown type" in refused.text) == (400, True)


BAD = {"format": {"type": "x"}}


def test_a_template_that_takes_all_gets_all(site: FakeSite) -> None:
    body = {"model": "m", "input": [*START, {"role": "developer", "content": "New rules."}]}
    assert site.client.post("/v1/responses", json=body).status_code == 200
    [engine] = site.engines
    roles = [each.role for each in engine.renderings[-1].chat.messages]
    assert roles == ["system", "user", "user", "system"]


def test_the_older_compaction(site: FakeSite) -> None:
    body = {"model": "m", "input": START, "instructions": "x", "tools": TOOLS, "parallel_tool_calls": True}
    packed = zstandard.ZstdCompressor().compress(json.dumps(body).encode())
    answer = site.client.post("/v1/responses/compact", content=packed, headers=HEADERS)
    assert answer.status_code == 200
    [item] = answer.json()["output"]
    assert json.loads(item["encrypted_content"])["summary"] == "All mended."


HANDSHAKE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"OpenAI-Beta: responses_websockets=2026-02-06\r\nAuthorization: Bearer none\r\n\r\n"
)


def test_a_websocket_is_declined_at_once_with_426(site: FakeSite) -> None:
    """The one status at which Codex goes on over HTTP in the same turn; at others it tries several times."""
    with connect(site.port) as sock:
        sock.sendall(HANDSHAKE)
        response, body = response_of(sock)
        assert read_to_end(sock) == b""
    assert response.status == 426
    assert response.headers["connection"] == "close"
    assert response.headers["upgrade"] == "HTTP/1.1"
    assert json.loads(body)["error"]["message"] == (
        "responses are served over HTTP, not over a WebSocket: use POST"
    )


def test_any_other_get_is_not_allowed(site: FakeSite) -> None:
    answer = site.client.get("/v1/responses")
    assert (answer.status_code, answer.text) == (405, "405 method not allowed")
    assert answer.headers["allow"] == "POST"


def test_a_client_that_leaves_stops_the_work() -> None:
    body = json.dumps({"model": "m", "input": "Hi", "stream": True}).encode()
    head = b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    slow = Reply([f"{number} " for number in range(10_000)])
    engine = FakeEngine({}, default=slow, delay_s=0.01, window=20_000)
    with fake_site(fake_model("m"), engine=lambda: engine) as site:
        with connect(site.port) as sock:
            sock.sendall(head + body)
            assert b"response.created" in sock.recv(65536)
            sock.shutdown(socket.SHUT_RDWR)
        assert _ends(site)


def _ends(site: FakeSite) -> bool:
    """Whether nothing runs any more, within the tests' usual time."""
    for _ in range(200):
        if not site.running:
            return True
        site.client.get("/livez")
    return False
