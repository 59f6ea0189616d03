"""The official Python client of OpenAI's API, pointed at the server as its users would point it."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from app.access.keys import new_key
from app.core.errors import EngineFailed
from app.core.events import Content, Event, Thinking, ToolCall
from app.engine.base import Prompt, Run
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from tests.api.openai_site import CITY, WEATHER
from tests.e2e.fake_site import FakeSite, fake_site

pytestmark = pytest.mark.row("A9")

ASK: list[Any] = [{"role": "user", "content": "hi"}]
TOOLS: list[Any] = [WEATHER]
EVENTS: tuple[tuple[Event, ...], ...] = ((Thinking("hm"),), (Content("so"),))
CALL = ToolCall(0, "call_1", "weather", {"city": "Rome"})


class Person(BaseModel):
    """What the model is to describe."""

    name: str
    age: int


def script(prompt: Prompt, run: Run) -> Reply:
    constraint = run.constraint
    if constraint is not None and constraint.schema and "$defs" in constraint.schema:
        return Reply((json.dumps([{"name": "weather", "arguments": {"city": "Rome"}}]),))
    if constraint is not None:
        return Reply(('{"name":', '"Ann","age":', "3}"))
    if run.chat.tools:
        return Reply(("x",), events=((), (CALL,)))
    if "think" in prompt.text:
        return Reply(("a", "b"), events=EVENTS)
    if "break" in prompt.text:
        return Reply(("a", "b"), error=EngineFailed("broken"), error_after=1)
    return Reply(("Hello", " you"))


@pytest.fixture(scope="module")
def site() -> Iterator[FakeSite]:
    with fake_site(
        fake_model("m"), fake_model("emb", "embedding"), engine=lambda: FakeEngine(script)
    ) as served:
        yield served


@pytest.fixture(scope="module")
def client(site: FakeSite) -> Iterator[openai.OpenAI]:
    base_url = f"http://127.0.0.1:{site.port}/v1"
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as made:
        yield made


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=ASK, max_completion_tokens=9, user="u")
    assert answer.choices[0].message.content == "Hello you"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


def test_a_stream(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="m", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello you"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2


def test_the_streaming_helper_puts_the_answer_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="m", messages=ASK, tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    (call,) = list(answer.choices[0].message.tool_calls or [])
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == (
        "call_1",
        "weather",
        {"city": "Rome"},
    )
    assert answer.choices[0].finish_reason == "tool_calls"


def test_the_streaming_helper_raises_for_an_answer_that_was_cut(client: openai.OpenAI) -> None:
    """The client's own rule; the events before have all that there was."""
    asked: Any = [{"role": "user", "content": "Hi"}]
    with client.chat.completions.stream(model="m", messages=asked, max_tokens=1) as stream:
        told = "".join(event.delta for event in stream if event.type == "content.delta")
        with pytest.raises(openai.LengthFinishReasonError):
            stream.get_final_completion()
    assert told


def test_an_answer_is_parsed_into_a_class(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="m", messages=ASK, response_format=Person)
    assert answer.choices[0].message.parsed == Person(name="Ann", age=3)
    with client.chat.completions.stream(model="m", messages=ASK, response_format=Person) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.parsed == Person(name="Ann", age=3)


def test_a_tool_is_called_that_must_be(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=ASK, tools=TOOLS, tool_choice="required")
    (call,) = list(answer.choices[0].message.tool_calls or [])
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Rome"}
    assert CITY["required"] == ["city"]


def test_reasoning_and_extra_fields(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "think"}],
        reasoning_effort="low",
        n=2,
        logit_bias={"5": -1},
        extra_body={"top_k": 5, "min_p": 0.1, "chat_template_kwargs": {"style": "x"}},
    )
    assert [choice.message.content for choice in answer.choices] == ["so", "so"]
    assert answer.choices[0].message.model_dump()["reasoning"] == "hm"


def test_completions_embeddings_and_models(client: openai.OpenAI) -> None:
    assert client.completions.create(model="m", prompt="hi", logprobs=1).choices[0].text == "Hello you"
    texts = [
        chunk.choices[0].text for chunk in client.completions.create(model="m", prompt="hi", stream=True)
    ]
    assert "".join(texts) == "Hello you"
    vectors = client.embeddings.create(model="emb", input=["a", "b"], dimensions=4)  # as base64
    assert [len(item.embedding) for item in vectors.data] == [4, 4]
    assert [model.id for model in client.models.list()] == ["m:latest", "emb:latest"]
    assert client.models.retrieve("m").id == "m"


def test_errors_have_the_clients_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'nosuch' not found"):
        client.chat.completions.create(model="nosuch", messages=ASK)
    with pytest.raises(openai.BadRequestError, match="n: at most 128 answers"):
        client.chat.completions.create(model="m", messages=ASK, n=200)
    stream = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "break"}], stream=True
    )
    with pytest.raises(openai.APIError, match="broken"):
        list(stream)


def test_a_key_is_asked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    key, digest = new_key("me")
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    file.write_text(json.dumps({"keys": [{"id": "me", "hash": digest, "scopes": ["inference"]}]}))
    with fake_site(fake_model("m"), keys_file=file) as served:
        url = f"http://127.0.0.1:{served.port}/v1"
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as good:
            assert good.chat.completions.create(model="m", messages=ASK).choices
            with pytest.raises(openai.PermissionDeniedError):
                good.models.list()
        with (
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as bad,
            pytest.raises(openai.AuthenticationError),
        ):
            bad.chat.completions.create(model="m", messages=ASK)
