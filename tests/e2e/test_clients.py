"""The official Python client, pointed at the real server as its users would point it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from pydantic import BaseModel

from harness.models.catalogue import GREETING, PARIS_QUESTION, WEATHER, user
from harness.server import LiveServer
from tests.e2e.engines import busy, eventually, load, metric

pytestmark = [pytest.mark.engine, pytest.mark.row("A9", "C7")]

ANSWER_S = 120
GREEDY: dict[str, Any] = {"temperature": 0, "seed": 1}
HELLO = [user("Hello")]
STORY = [user("Write a long story.")]
THOUGHT = "A greeting."
NO_IMAGES = "does not support image input"
PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\0\0\0\nIDATx\x9cc\0\x01"
    b"\0\0\x05\0\x01\r\n-\xb4\0\0\0\0IEND\xaeB`\x82"
)


class Person(BaseModel):
    """What the model is to describe."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """Get the weather"""
    return {"Paris": "9 degrees"}[city]


@pytest.fixture(scope="module")
def python(server: LiveServer) -> Iterator[ollama.Client]:
    made = ollama.Client(server.url, timeout=ANSWER_S)
    yield made
    made.close()


@pytest.fixture(scope="module", autouse=True)
def _loaded(client: httpx.Client) -> None:
    for model in ("plain", "tool"):
        load(client, model)


def generated(client: httpx.Client) -> float:
    """Tokens that the small model has made so far."""
    return metric(client, "generation_tokens_total", "tool") or 0


def assert_aborted(client: httpx.Client, before: float) -> None:
    """The engine stopped long before the end of the story, which takes more than 500 tokens."""
    eventually(lambda: not busy(client, "tool"), 10)
    assert generated(client) - before < 250


def test_python_chat(python: ollama.Client) -> None:
    answer = python.chat("tool", HELLO, options=GREEDY)
    assert (answer.model, answer.message.role) == ("tool", "assistant")
    assert (answer.message.content, answer.message.thinking) == (GREETING, THOUGHT)
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert answer.message.tool_calls is None
    for value in (answer.total_duration, answer.load_duration, answer.prompt_eval_duration):
        assert value is not None
        assert value > 0
    assert answer.prompt_eval_count == 9
    assert answer.created_at is not None
    assert abs(datetime.fromisoformat(answer.created_at) - datetime.now(UTC)).total_seconds() < 60


def test_python_chat_streamed(python: ollama.Client) -> None:
    parts = list(python.chat("tool", HELLO, stream=True, options=GREEDY))
    assert "".join(part.message.thinking or "" for part in parts) == THOUGHT
    assert "".join(part.message.content or "" for part in parts) == GREETING
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert (last.done_reason, last.message.content) == ("stop", "")
    assert last.eval_count is not None
    assert last.eval_count >= len(parts) - 1


@pytest.mark.point(126)
def test_python_without_thinking(python: ollama.Client) -> None:
    answer = python.chat("tool", HELLO, think=False, options=GREEDY)
    assert (answer.message.content, answer.message.thinking) == (GREETING, None)
    with pytest.raises(ollama.ResponseError, match='"plain" does not support thinking') as caught:
        python.chat("plain", HELLO, think="high")
    assert caught.value.status_code == 400


@pytest.mark.row("A6")
def test_python_functions_as_tools(python: ollama.Client) -> None:
    """The loop of the client's own documentation: ask, run what is called, ask again."""
    messages: list[Any] = [PARIS_QUESTION]
    answer = python.chat("tool", messages, tools=[get_weather], options=GREEDY)
    assert answer.message.tool_calls is not None
    [call] = answer.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Paris"})
    assert answer.message.thinking == "I need the weather tool."
    messages.append(answer.message)
    result = get_weather(**call.function.arguments)
    messages.append({"role": "tool", "content": result, "tool_name": call.function.name})
    final = python.chat("tool", messages, tools=[get_weather], options=GREEDY)
    assert final.message.content == "Only 9 degrees in Paris."


def test_python_tools_streamed(python: ollama.Client) -> None:
    parts = python.chat("tool", [user("Compare Paris and London.")], tools=[WEATHER], stream=True)
    calls = [call.function for part in parts for call in part.message.tool_calls or ()]
    assert [call.arguments for call in calls] == [{"city": "Paris"}, {"city": "London"}]


@pytest.mark.row("A7")
def test_python_format_is_a_pydantic_schema(python: ollama.Client) -> None:
    messages = [user("Give me a person as json")]
    answer = python.chat("tool", messages, format=Person.model_json_schema(), options=GREEDY)
    assert Person.model_validate_json(answer.message.content or "").name
    loose = python.chat("tool", messages, format="json", think=False, options=GREEDY)
    assert json.loads(loose.message.content or "").keys() == {"name", "age"}


def test_python_images_need_a_model_that_sees(python: ollama.Client, tmp_path: Path) -> None:
    file = tmp_path / "dot.png"
    file.write_bytes(PNG)
    for image in (PNG, file):
        with pytest.raises(ollama.ResponseError) as caught:
            python.chat("tool", [{"role": "user", "content": "What is it?", "images": [image]}])
        assert (caught.value.status_code, NO_IMAGES in caught.value.error) == (400, True)
    with pytest.raises(ollama.ResponseError, match=NO_IMAGES):
        python.generate("plain", "What is it?", images=[PNG])


def test_python_generate(python: ollama.Client) -> None:
    whole = python.generate("tool", "Hello", think=False, options=GREEDY)
    assert (whole.response, whole.done, whole.done_reason) == (GREETING, True, "stop")
    assert whole.context
    assert whole.prompt_eval_count is not None
    parts = list(python.generate("tool", "Hello", think=False, stream=True, options=GREEDY))
    assert "".join(part.response or "" for part in parts) == GREETING
    assert parts[-1].context == whole.context
    raw = python.generate("plain", "1, 2, 3,", raw=True, options={**GREEDY, "num_predict": 3})
    assert (raw.eval_count, raw.done_reason, raw.context) == (3, "length", None)


def test_python_logprobs(python: ollama.Client) -> None:
    answer = python.chat("tool", HELLO, think=False, logprobs=True, top_logprobs=2, options=GREEDY)
    assert answer.logprobs is not None
    told = "".join(item.token for item in answer.logprobs)
    assert told.removesuffix("<|im_end|>") == GREETING
    assert all(len(item.top_logprobs or ()) == 2 for item in answer.logprobs)


def test_python_lists_and_shows(python: ollama.Client) -> None:
    listed = {model.model: model for model in python.list().models}
    assert {"plain:latest", "tool:latest", "emb:latest"} <= listed.keys()
    tool = listed["tool:latest"]
    assert tool.details is not None
    assert tool.details.family == "qwen3"
    assert tool.modified_at is not None
    assert tool.size is not None
    shown = python.show("tool")
    assert set(shown.capabilities or ()) == {"completion", "tools", "thinking"}
    assert shown.modelinfo is not None
    assert shown.modelinfo["qwen3.context_length"] == 4096
    assert shown.modified_at == tool.modified_at
    system = python.show("sys")
    assert (system.license, "SYSTEM SYS" in (system.modelfile or "")) == ("L1\nL2", True)


def test_python_keep_alive(python: ollama.Client) -> None:
    assert python.generate("tool", keep_alive="20m").done_reason == "load"
    [row] = [row for row in python.ps().models if row.model == "tool:latest"]
    assert row.expires_at is not None
    assert (row.expires_at - datetime.now(UTC)).total_seconds() == pytest.approx(1200, abs=60)
    assert row.size is not None
    assert row.size > 0
    assert row.context_length == 4096
    assert python.chat("tool", keep_alive=300.0).done_reason == "load"


def test_python_errors(python: ollama.Client) -> None:
    def error(call: Callable[[], object]) -> tuple[str, int]:
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        return caught.value.error, caught.value.status_code

    assert error(lambda: python.chat("nosuch", HELLO)) == ("model 'nosuch' not found", 404)
    assert error(lambda: list(python.chat("nosuch", HELLO, stream=True))) == ("model 'nosuch' not found", 404)
    assert error(lambda: python.show("nosuch")) == ("model 'nosuch:latest' not found", 404)
    assert error(lambda: python.generate("a b", "x")) == ("invalid model name", 400)
    assert error(lambda: python.chat("tool", HELLO, options={"temperature": "x"})) == (
        'option "temperature" must be of type float32',
        400,
    )
    assert error(lambda: python.chat("plain", HELLO, tools=[get_weather])) == (
        "registry.ollama.ai/library/plain:latest does not support tools",
        400,
    )
    assert python.pull("plain").status == "success"
    assert error(lambda: python.pull("nosuch")) == (
        "this server does not pull models: pulling and pushing are off",
        403,
    )
    text, status = error(lambda: python.delete("plain"))
    assert (status, "404 page not found" in text) == (403, False)


@pytest.mark.point(94)
def test_python_closing_a_stream_stops_the_engine(python: ollama.Client, client: httpx.Client) -> None:
    before = generated(client)
    parts = python.chat("tool", STORY, stream=True, think=False, options=GREEDY)
    assert isinstance(parts, Iterator)
    assert next(parts).message.content
    del parts
    assert_aborted(client, before)


async def test_python_asyncio(server: LiveServer) -> None:
    made = ollama.AsyncClient(server.url, timeout=ANSWER_S)

    async def streamed() -> str:
        parts = await made.chat("tool", HELLO, stream=True, think=False, options=GREEDY)
        return "".join([part.message.content or "" async for part in parts])

    async def whole() -> str | None:
        return (await made.chat("tool", HELLO, think=False, options=GREEDY)).message.content

    answers = await asyncio.gather(*(ask() for ask in (streamed, whole) * 4))
    assert set(answers) == {GREETING}
    called = await made.chat("tool", [PARIS_QUESTION], tools=[get_weather], options=GREEDY)
    assert called.message.tool_calls is not None
    with pytest.raises(ollama.ResponseError, match="model 'nosuch' not found"):
        await made.generate("nosuch", "x")
    assert {model.model for model in (await made.ps()).models} >= {"tool:latest"}
    await made.close()


@pytest.mark.point(94)
async def test_python_asyncio_cancelled(server: LiveServer, client: httpx.Client) -> None:
    before = generated(client)
    made = ollama.AsyncClient(server.url, timeout=ANSWER_S)
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in await made.chat("tool", STORY, stream=True, think=False, options=GREEDY):
            begun.set()

    reading = asyncio.create_task(read())
    await begun.wait()
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    await made.close()
    await asyncio.to_thread(assert_aborted, client, before)


def test_python_embed(python: ollama.Client) -> None:
    answer = python.embed("emb", ["one", "two words"], dimensions=8)
    assert [len(vector) for vector in answer.embeddings] == [8, 8]
    assert answer.prompt_eval_count == 7
    assert len(python.embeddings("emb", "one").embedding) == 384
    with pytest.raises(ollama.ResponseError, match="try pulling it first") as caught:
        python.embed("nosuch", "x")
    assert caught.value.status_code == 404


def test_python_unloads(python: ollama.Client) -> None:
    python.embed("emb", "x", keep_alive=0)
    assert python.generate("tool", keep_alive=0).done_reason == "unload"
    assert {"tool:latest", "emb:latest"}.isdisjoint(row.model for row in python.ps().models)
