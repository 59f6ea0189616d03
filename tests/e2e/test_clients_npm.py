"""The official npm client, pointed at the real server: `clients/client.mjs` makes the calls."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest

from harness.models.catalogue import GREETING, PARIS_QUESTION, WEATHER, user
from harness.server import LiveServer
from tests.e2e.engines import busy, eventually, load, metric

pytestmark = [pytest.mark.engine, pytest.mark.row("A9", "C7")]

HERE = Path(__file__).parent / "clients"
INSTALL_S = 120
ANSWER_S = 120
GREEDY: dict[str, Any] = {"temperature": 0, "seed": 1}
HELLO = [user("Hello")]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}

Call: TypeAlias = dict[str, Any]
Node: TypeAlias = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def node(server: LiveServer) -> Node:
    """Makes calls with the npm client, one after another in one process, and gives what came back."""
    npm, program = shutil.which("npm"), shutil.which("node")
    if npm is None or program is None:
        pytest.skip("the npm client needs node and npm")
    made, wanted = HERE / "node_modules" / ".package-lock.json", HERE / "package-lock.json"
    if not made.exists() or made.stat().st_mtime < wanted.stat().st_mtime:
        installed = subprocess.run([npm, "ci"], cwd=HERE, capture_output=True, text=True, timeout=INSTALL_S)
        assert installed.returncode == 0, installed.stderr

    def run(*calls: Call) -> list[Any]:
        done = subprocess.run(
            [program, str(HERE / "client.mjs"), server.url],
            input=json.dumps(calls),
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module", autouse=True)
def _loaded(client: httpx.Client) -> None:
    load(client, "tool")


def chat(messages: Sequence[Any] = HELLO, **fields: Any) -> Call:
    """A call of the npm client."""
    request = {"model": "tool", "messages": messages, "options": GREEDY, "think": False, **fields}
    return {"method": "chat", "request": request}


def test_chat(node: Node) -> None:
    whole, streamed = node(chat(think=True), chat(think=True, stream=True))
    message = whole["answer"]["message"]
    assert message == {"role": "assistant", "content": GREETING, "thinking": "A greeting."}
    assert whole["answer"]["done_reason"] == "stop"
    chunks = streamed["chunks"]
    assert "".join(chunk["message"]["content"] for chunk in chunks) == GREETING
    assert "".join(chunk["message"].get("thinking", "") for chunk in chunks) == "A greeting."
    assert "error" not in streamed
    assert chunks[-1]["eval_count"] == whole["answer"]["eval_count"]


def test_tools_and_format(node: Node) -> None:
    called, told, person = node(
        chat([PARIS_QUESTION], tools=[WEATHER], stream=True),
        chat(
            [
                PARIS_QUESTION,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}],
                },
                {"role": "tool", "content": "22 degrees", "tool_name": "get_weather"},
            ],
            tools=[WEATHER],
        ),
        chat([user("Give me a person as json")], format=SCHEMA),
    )
    calls = [call for chunk in called["chunks"] for call in chunk["message"].get("tool_calls", ())]
    assert [call["function"]["arguments"] for call in calls] == [{"city": "Paris"}]
    assert told["answer"]["message"]["content"] == "It is 22 degrees in Paris."
    assert json.loads(person["answer"]["message"]["content"]).keys() == {"name", "age"}


def test_generate(node: Node) -> None:
    request = {"model": "tool", "prompt": "Hello", "think": False, "options": GREEDY}
    whole, streamed = node(
        {"method": "generate", "request": request},
        {"method": "generate", "request": {**request, "stream": True}},
    )
    assert whole["answer"]["response"] == GREETING
    assert "".join(chunk["response"] for chunk in streamed["chunks"]) == GREETING


def test_lists_and_shows(node: Node) -> None:
    version, listed, running, shown = node(
        {"method": "version"},
        {"method": "list"},
        {"method": "ps"},
        {"method": "show", "request": {"model": "tool"}},
    )
    assert version["answer"]["version"].count(".") == 2
    assert "tool:latest" in {model["name"] for model in listed["answer"]["models"]}
    assert "tool:latest" in {model["name"] for model in running["answer"]["models"]}
    assert "thinking" in shown["answer"]["capabilities"]


def test_errors(node: Node) -> None:
    image = "iVBORw0KGgo="
    found = node(
        chat(model="nosuch"),
        chat(model="nosuch", stream=True),
        chat(options={"top_k": "x"}),
        chat([{**user("What is it?"), "images": [image]}]),
        {"method": "show", "request": {"model": "nosuch"}},
        {"method": "pull", "request": {"model": "nosuch"}},
    )
    errors = [(each["error"]["name"], each["error"]["message"], each["error"]["status"]) for each in found]
    assert errors == [
        ("ResponseError", "model 'nosuch' not found", 404),
        ("ResponseError", "model 'nosuch' not found", 404),
        ("ResponseError", 'option "top_k" must be of type integer', 400),
        ("ResponseError", "tool:latest does not support image input", 400),
        ("ResponseError", "model 'nosuch:latest' not found", 404),
        ("ResponseError", "this server does not pull models: pulling and pushing are off", 403),
    ]


@pytest.mark.point(94)
def test_aborting_a_stream_stops_the_engine(node: Node, client: httpx.Client) -> None:
    before = metric(client, "generation_tokens_total", "tool") or 0
    [broken] = node({**chat([user("Write a long story.")], stream=True), "abort_after": 3})
    assert broken["error"]["name"] == "AbortError"
    assert len(broken["chunks"]) < 100
    eventually(lambda: not busy(client, "tool"), 10)
    assert (metric(client, "generation_tokens_total", "tool") or 0) - before < 250


def test_embed(node: Node) -> None:
    whole, legacy = node(
        {"method": "embed", "request": {"model": "emb", "input": ["one", "two words"], "dimensions": 8}},
        {"method": "embeddings", "request": {"model": "emb", "prompt": "one"}},
    )
    assert [len(vector) for vector in whole["answer"]["embeddings"]] == [8, 8]
    assert whole["answer"]["prompt_eval_count"] == 7
    assert len(legacy["answer"]["embedding"]) == 384
