"""The official client against a server: whole and streamed answers, its own helpers, tools, schemas.

`openai` is here with vLLM, which needs it.
"""

from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai import OpenAI
from openai.types.responses import FunctionToolParam, ResponseFunctionToolCall

from app.core.errors import EngineFailed
from app.core.events import Content, Thinking, ToolCall
from app.engine.base import Prompt, Run
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from tests.api.responding import replying
from tests.e2e.fake_site import fake_site

WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def script(_: Prompt, run: Run) -> Reply:
    """A model that calls the tool, and tells what it heard; asked to fail it does."""
    last = run.chat.messages[-1] if run.chat.messages else None
    if last is not None and last.text == "fail":
        return Reply(("one", " two"), error=EngineFailed("out of order"), error_after=1)
    if run.constraint is not None:
        return Reply(('{"city":', ' "Paris"}'))
    if last is not None and last.role == "tool":
        return Reply(("It", " is ", last.text, "."))
    if run.chat.tools:
        return replying(
            Thinking("I must look."),
            Content("Let me look."),
            ToolCall(0, "call_1", "get_weather", {"city": "Paris"}),
        )
    return Reply(("Hello", " there."))


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    with (
        fake_site(fake_model("m"), engine=lambda: FakeEngine(script)) as site,
        OpenAI(base_url=f"http://127.0.0.1:{site.port}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def test_create(client: OpenAI) -> None:
    answer = client.responses.create(model="m", input="Hi", metadata={"a": "1"}, store=True)
    assert answer.output_text == "Hello there."
    assert answer.status == "completed"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.metadata == {"a": "1"}


def test_a_raw_stream(client: OpenAI) -> None:
    kinds: list[str] = []
    text = ""
    for number, event in enumerate(client.responses.create(model="m", input="Hi", stream=True)):
        assert event.sequence_number == number
        kinds.append(event.type)
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert text == "Hello there."


def test_the_streaming_helper(client: OpenAI) -> None:
    with client.responses.stream(model="m", input="Hi", tools=[WEATHER]) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == "Let me look."
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    [call] = [item for item in final.output if item.type == "function_call"]
    assert call.parsed_arguments == {"city": "Paris"}


def test_a_conversation_with_a_tool(client: OpenAI) -> None:
    """What was answered is sent back as it came, as the client's documentation has it."""
    history: list[Any] = [{"role": "user", "content": "How is the weather in Paris?"}]
    answer = client.responses.create(model="m", input=history, tools=[WEATHER], store=False)
    history += answer.output
    calls = [item for item in answer.output if isinstance(item, ResponseFunctionToolCall)]
    history += [
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls
    ]
    answer = client.responses.create(model="m", input=history, tools=[WEATHER], store=False)
    assert answer.output_text == "It is sunny."


class Place(pydantic.BaseModel):
    city: str


def test_parse(client: OpenAI) -> None:
    answer = client.responses.parse(model="m", input="Where?", text_format=Place)
    assert answer.output_parsed == Place(city="Paris")
    with client.responses.stream(model="m", input="Where?", text_format=Place) as stream:
        assert stream.get_final_response().output_parsed == Place(city="Paris")


def test_a_cut_answer(client: OpenAI) -> None:
    answer = client.responses.create(model="m", input="Hi", max_output_tokens=1)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    events = list(client.responses.create(model="m", input="Hi", max_output_tokens=1, stream=True))
    assert events[-1].type == "response.incomplete"


def test_a_cut_stream_is_in_its_last_event(client: OpenAI) -> None:
    """The helper waits for `response.completed`, which OpenAI does not send of a cut answer either."""
    with client.responses.stream(model="m", input="Hi", max_output_tokens=1) as stream:
        *_, last = stream
        with pytest.raises(RuntimeError, match="receive a"):
            stream.get_final_response()
    assert last.type == "response.incomplete"
    assert (last.response.output_text, last.response.status) == ("Hello", "incomplete")


def test_refusals(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'nosuch' not found"):
        client.responses.create(model="nosuch", input="Hi")
    with pytest.raises(openai.BadRequestError, match="previous_response_id is not supported"):
        client.responses.create(model="m", input="Hi", previous_response_id="resp_1")
    with pytest.raises(openai.BadRequestError, match="has not turned on the built-in tool 'web_search'"):
        client.responses.create(model="m", input="Hi", tools=[{"type": "web_search"}])


def test_a_stream_that_fails_ends_in_an_event_that_says_so(client: OpenAI) -> None:
    events = list(client.responses.create(model="m", input="fail", stream=True))
    error, failed = events[-2:]
    assert error.type == "error"
    assert error.message == "out of order"
    assert failed.type == "response.failed"
    assert failed.response.error is not None
    with client.responses.stream(model="m", input="fail") as stream:
        assert [event.type for event in stream][-1] == "response.failed"


def test_compact(client: OpenAI) -> None:
    def summing(_: Prompt, run: Run) -> Reply:
        return replying(ToolCall(0, "c", "create_summary", {"summary": "s", "retain_item_ids": []}))

    with fake_site(fake_model("m"), engine=lambda: FakeEngine(summing)) as site:
        made = OpenAI(base_url=f"http://127.0.0.1:{site.port}/v1", api_key="none", max_retries=0)
        with made:
            answer: Any = made.responses.compact(model="m", input="Hi")
            assert answer.object == "response.compaction"
            again = made.responses.create(model="m", input=[answer.output[0].to_dict()])
    assert again.output[0].type == "function_call"
