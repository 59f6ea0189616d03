"""Anthropic's own Python client, pointed at a server over a scripted engine."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from app.core.errors import EngineFailed
from app.core.events import Content, Thinking, ToolCall
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from tests.api.messages_site import IMAGE
from tests.e2e.fake_site import FakeSite, fake_site

pytestmark = pytest.mark.row("A9", "C7")

HI: list[Any] = [{"role": "user", "content": "Hi"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = ToolCall(0, "call_1", "weather", {"city": "Paris"})
ASKS = Reply(("a", "b"), events=((Thinking("Hm."),), (Content("I look."),), (CALL,)))
SCRIPT = {
    "Weather?": ASKS,
    "9 degrees": Reply(("It is cold.",)),
    "json": Reply(('{"city":', '"Paris"}')),
    "break": Reply(("a", "b"), error=EngineFailed("broken"), error_after=1),
    "fail": Reply(("a",), error=EngineFailed("broken")),
}


class City(BaseModel):
    """What the model is to name."""

    city: str


@pytest.fixture(scope="module")
def here() -> Iterator[FakeSite]:
    models = (fake_model("m"), fake_model("plain", "completion"))
    with fake_site(*models, engine=lambda: FakeEngine(SCRIPT), max_body_bytes=100_000) as running:
        yield running


@pytest.fixture(scope="module")
def client(here: FakeSite) -> Iterator[anthropic.Anthropic]:
    url = f"http://127.0.0.1:{here.port}"
    with anthropic.Anthropic(base_url=url, api_key="any", max_retries=0, timeout=30) as made:
        yield made


def test_create(client: anthropic.Anthropic) -> None:
    answer = client.messages.with_raw_response.create(
        model="m", max_tokens=64, messages=HI, system="Be brief."
    )
    message = answer.parse()
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].type == "text"
    assert message.content[0].text == "Hello from the scripted engine."
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens == 5
    assert (message.usage.cache_read_input_tokens, message.usage.cache_creation_input_tokens) == (0, 0)
    assert (answer.request_id or "").startswith("req_")


def test_the_stop_sequence_that_matched(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="m", max_tokens=64, messages=HI, stop_sequences=[" the"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " the")


def test_the_stream_helper(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="m", max_tokens=64, messages=HI) as stream:
        texts = list(stream.text_stream)
        message = stream.get_final_message()
    assert texts == ["Hello", " from", " the", " scripted", " engine."]
    assert stream.get_final_text() == "".join(texts)
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 5)
    assert message.usage.input_tokens == 8


def test_raw_events(client: anthropic.Anthropic) -> None:
    with client.messages.create(model="m", max_tokens=64, messages=HI, stream=True) as stream:
        kinds = [event.type for event in stream]
    deltas = ["content_block_delta"] * 5
    assert kinds == [
        "message_start",
        "content_block_start",
        *deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_tools_in_a_conversation(client: anthropic.Anthropic) -> None:
    asked: list[Any] = [{"role": "user", "content": "Weather?"}]
    with client.messages.stream(model="m", max_tokens=64, messages=asked, tools=[WEATHER]) as stream:
        inputs = [event.snapshot for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    assert inputs == [{"city": "Paris"}]
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.stop_reason == "tool_use"
    whole = client.messages.create(model="m", max_tokens=64, messages=asked, tools=[WEATHER])
    assert message.model_dump(exclude={"id"}) == whole.model_dump(exclude={"id"})
    call = message.content[-1]
    assert call.type == "tool_use"
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "9 degrees"}
    history: list[Any] = [
        *asked,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    answer = client.messages.create(model="m", max_tokens=64, messages=history, tools=[WEATHER])
    assert answer.content[0].type == "text"
    assert answer.content[0].text == "It is cold."


def test_the_runner_of_tools(client: anthropic.Anthropic) -> None:
    """It asks for a conversation that the server holds, and goes on without."""

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather.

        Args:
            city: Where.
        """
        return "9 degrees" if city == "Paris" else ""

    asked: list[Any] = [{"role": "user", "content": "Weather?"}]
    runner = client.beta.messages.tool_runner(model="m", max_tokens=64, messages=asked, tools=[weather])
    last = runner.until_done().content[-1]
    assert last.type == "text"
    assert last.text == "It is cold."


def test_structured_outputs(client: anthropic.Anthropic) -> None:
    asked: list[Any] = [{"role": "user", "content": "json"}]
    message = client.messages.parse(model="m", max_tokens=64, messages=asked, output_format=City)
    assert message.parsed_output == City(city="Paris")


def test_count_tokens(client: anthropic.Anthropic) -> None:
    pictures: list[Any] = [{"role": "user", "content": [IMAGE, {"type": "text", "text": "What is it?"}]}]
    for messages in (HI, pictures):
        counted = client.messages.count_tokens(model="m", messages=messages, tools=[WEATHER], system="S")
        asked = client.messages.create(
            model="m", max_tokens=9, messages=messages, tools=[WEATHER], system="S"
        )
        assert counted.input_tokens == asked.usage.input_tokens > 0


def test_the_beta_client(client: anthropic.Anthropic) -> None:
    message = client.beta.messages.create(
        model="m",
        max_tokens=64,
        messages=HI,
        betas=["context-management-2025-06-27"],
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
    )
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("call", "error", "kind"),
    [
        (lambda ask: ask(max_tokens=0), anthropic.BadRequestError, "invalid_request_error"),
        (lambda ask: ask(model="x"), anthropic.NotFoundError, "not_found_error"),
        (
            lambda ask: ask(system="x" * 200_000),
            anthropic.APIStatusError,
            "request_too_large",
        ),
        (
            lambda ask: ask(messages=[{"role": "user", "content": "fail"}]),
            anthropic.InternalServerError,
            "api_error",
        ),
    ],
)
def test_failures_are_the_clients_own_classes(
    client: anthropic.Anthropic, call: Callable[[Any], Any], error: type[anthropic.APIStatusError], kind: str
) -> None:
    def ask(**changes: Any) -> Any:
        asked: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": HI, **changes}
        return client.messages.create(**asked)

    with pytest.raises(error) as raised:
        call(ask)
    body: Any = raised.value.body
    assert (body["error"]["type"], body["request_id"]) == (kind, raised.value.request_id)


def test_a_failure_in_mid_stream_is_raised(client: anthropic.Anthropic) -> None:
    asked: list[Any] = [{"role": "user", "content": "break"}]
    texts: list[str] = []
    with (
        client.messages.stream(model="m", max_tokens=64, messages=asked) as stream,
        pytest.raises(anthropic.APIStatusError, match="broken"),
    ):
        texts.extend(stream.text_stream)
    assert texts == ["a"]


def test_an_overload_is_the_clients_own_class() -> None:
    """The first of two requests holds the engine's only place, and nobody may wait."""

    async def never(_: int) -> None:
        await asyncio.Event().wait()

    def engine() -> FakeEngine:
        return FakeEngine(
            slots=1, default=Reply(("a", "b"), gate=lambda index: never(index) if index else now())
        )

    async def now() -> None:
        return None

    with fake_site(fake_model("m"), engine=engine, max_queue=0) as here:
        url = f"http://127.0.0.1:{here.port}"
        with (
            anthropic.Anthropic(base_url=url, api_key="any", max_retries=0, timeout=30) as client,
            client.messages.stream(model="m", max_tokens=9, messages=HI) as stream,
        ):
            assert next(iter(stream.text_stream)) == "a"
            with pytest.raises(anthropic.InternalServerError) as raised:
                client.messages.create(model="m", max_tokens=9, messages=HI)
            assert type(raised.value).__name__ == "OverloadedError"
            assert raised.value.status_code == 529
