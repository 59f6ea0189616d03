"""What the Messages API answers: documents, streams, counts and failures in Anthropic's shape."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.access.keys import new_key
from app.api.anthropic.encoder import MessagesEncoder
from app.api.anthropic.failure import failure
from app.api.errors import headers_of
from app.core import errors
from app.core.events import Content, Done, Event, Started, Thinking, Timings, ToolCall
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from tests.api.messages_site import IMAGE, Site, assistant, frames, scripted, site, user
from tests.e2e.fake_site import fake_site

pytestmark = pytest.mark.row("A9", "C7")

CALL = ToolCall(0, "call_1", "weather", {"city": "Paris", "mark": "<&>"})
TOOL = {"name": "weather", "input_schema": {"type": "object"}}
EVERYTHING: Sequence[Sequence[Event]] = (
    (Thinking("Let me"), Thinking(" see.")),
    (Content("It is "),),
    (Content("cold."),),
    (CALL, replace(CALL, index=1, id="call_2")),
)
KEY, HASH = new_key("client")


@pytest.fixture
async def here() -> AsyncGenerator[Site]:
    async with site() as made:
        yield made


@pytest.fixture
async def thoughtful() -> AsyncGenerator[Site]:
    """Its answers have all that an answer can have."""
    async with site(scripted("a", "b", "c", events=EVERYTHING)) as made:
        yield made


# Documents


@pytest.mark.point(232)
async def test_an_answer_is_a_message_of_blocks(here: Site) -> None:
    answer = await here.ask(model="M")
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert re.fullmatch("req_[0-9a-f]{24}", answer.headers["request-id"])
    told = answer.json()
    assert re.fullmatch("msg_[0-9a-f]{24}", told.pop("id"))
    assert told == {
        "type": "message",
        "role": "assistant",
        "model": "M",
        "content": [{"type": "text", "text": "Hello from the scripted engine."}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 5,
        },
    }


@pytest.mark.point(232)
async def test_blocks_come_in_the_order_of_thinking_text_and_calls(thoughtful: Site) -> None:
    told = await thoughtful.told(tools=[TOOL])
    assert told["content"] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": "unsigned"},
        {"type": "text", "text": "It is cold."},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": CALL.arguments},
        {"type": "tool_use", "id": "call_2", "name": "weather", "input": CALL.arguments},
    ]
    assert told["stop_reason"] == "tool_use"


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_that_is_not_to_be_shown_is_left_out(thoughtful: Site, stream: bool) -> None:
    thinking = {"type": "adaptive", "display": "omitted"}
    if stream:
        found = [event for name, event in await thoughtful.stream(thinking=thinking) if "block" in name]
        assert [event["index"] for event in found] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
        kinds = [event["content_block"]["type"] for event in found if "content_block" in event]
    else:
        kinds = [block["type"] for block in (await thoughtful.told(thinking=thinking))["content"]]
    assert kinds == ["text", "tool_use", "tool_use"]


async def test_an_answer_of_nothing_has_an_empty_list() -> None:
    async with site(scripted("")) as here:
        assert (await here.told())["content"] == []


@pytest.mark.point(232)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, {"stop_reason": "end_turn"}),
        ({"max_tokens": 2}, {"stop_reason": "max_tokens"}),
        ({"stop_sequences": ["no", " the"]}, {"stop_reason": "stop_sequence", "stop_sequence": " the"}),
        ({"stop_sequences": ["no"]}, {"stop_reason": "end_turn"}),
    ],
)
async def test_why_an_answer_ended(here: Site, body: Any, reason: Any, stream: bool) -> None:
    told = (await here.stream(**body))[-2][1]["delta"] if stream else await here.told(**body)
    assert {key: value for key, value in told.items() if key.startswith("stop_")} == reason


def test_a_stop_string_of_the_models_own_is_no_sequence_of_the_clients() -> None:
    encoder = MessagesEncoder("m", "req_1", stops=["END"])
    encoder.collect(done(matched_stop="<|im_end|>"))
    assert json.loads(encoder.whole())["stop_reason"] == "end_turn"


def done(**fields: Any) -> Done:
    return Done("stop", 1, 1, 10, 3, Timings(1, 1), **fields)


@pytest.mark.parametrize("stream", [False, True])
async def test_without_anything_to_answer_the_model_is_only_loaded(here: Site, stream: bool) -> None:
    messages = [user(""), assistant([])]
    if stream:
        found = await here.stream(messages=messages)
        assert [name for name, _ in found] == ["message_start", "ping", "message_delta", "message_stop"]
        told = found[2][1]["delta"]
    else:
        told = await here.told(messages=messages)
        assert (told["content"], told["usage"]) == ([], {"input_tokens": 0, "output_tokens": 0})
    assert told["stop_reason"] == "stop_sequence"
    assert not here.engine.asked


# Streams


@pytest.mark.point(233)
async def test_a_stream_has_anthropics_events_in_order(thoughtful: Site) -> None:
    answer = await thoughtful.ask(stream=True, tools=[TOOL])
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache"
    assert re.fullmatch("req_[0-9a-f]{24}", answer.headers["request-id"])
    found = [event for _, event in frames(answer.text)]
    message = found[0]["message"]
    assert re.fullmatch("msg_[0-9a-f]{24}", message.pop("id"))
    usage = message["usage"]
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "usage": {**usage, "output_tokens": 0},
    }
    assert found[1] == {"type": "ping"}
    arguments = json.dumps(CALL.arguments, separators=(",", ":"))
    for mark, escaped in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        arguments = arguments.replace(mark, escaped)
    assert found[2:-2] == [
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            *pieces("thinking", "Let me", " see."),
            {"type": "signature_delta", "signature": "unsigned"},
        ),
        *block(1, {"type": "text", "text": ""}, *pieces("text", "It is ", "cold.")),
        *block(2, called("call_1"), {"type": "input_json_delta", "partial_json": arguments}),
        *block(3, called("call_2"), {"type": "input_json_delta", "partial_json": arguments}),
    ]
    assert found[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use"},
        "usage": {**usage, "output_tokens": 3},
    }
    assert found[-1] == {"type": "message_stop"}


def pieces(kind: str, *texts: str) -> list[dict[str, Any]]:
    return [{"type": f"{kind}_delta", kind: text} for text in texts]


def called(call_id: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "weather", "input": {}}


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


async def test_a_stream_tells_what_the_whole_answer_does(thoughtful: Site) -> None:
    whole = await thoughtful.told()
    blocks: list[dict[str, Any]] = []
    for name, event in await thoughtful.stream():
        match name:
            case "content_block_start":
                blocks.append(event["content_block"])
            case "content_block_delta":
                key, piece = next(item for item in event["delta"].items() if item[0] != "type")
                if key == "partial_json":
                    blocks[-1]["input"] = json.loads(piece)
                else:
                    blocks[-1][key] += piece
            case _:
                pass
    assert blocks == whole["content"]


def test_text_that_is_empty_is_no_frame() -> None:
    encoder = MessagesEncoder("m", "req_1")
    assert encoder.feed(Content("")) == encoder.feed(Thinking("")) == b""


def test_text_is_safe_in_html_and_in_a_frame() -> None:
    encoder = MessagesEncoder("m", "req_1")
    assert b'"text":"\\u003c\\n\\n\\u2028"' in encoder.feed(Content("<\n\n\u2028"))


# Counts


@pytest.mark.parametrize("stream", [False, True])
async def test_cached_tokens_are_no_input_and_stand_apart(stream: bool) -> None:
    async with site(scripted("a", " b", cached_tokens=5)) as here:
        usage = {"input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 5}
        if stream:
            found = await here.stream()
            assert found[0][1]["message"]["usage"] == {**usage, "output_tokens": 0}
            assert found[-2][1]["usage"] == {**usage, "output_tokens": 2}
        else:
            assert (await here.told())["usage"] == {**usage, "output_tokens": 2}


@pytest.mark.parametrize(
    ("cached", "usage"),
    [
        (None, {"input_tokens": 10, "output_tokens": 3}),
        (
            11,
            {
                "input_tokens": 0,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 10,
                "output_tokens": 3,
            },
        ),
    ],
)
def test_counts_that_an_engine_does_not_know_are_left_out(cached: int | None, usage: dict[str, int]) -> None:
    encoder = MessagesEncoder("m", "req_1")
    encoder.collect(done(cached_tokens=cached))
    assert json.loads(encoder.whole())["usage"] == usage
    [(_, started), _] = frames(encoder.feed(Started(10, cached)).decode())
    assert started["message"]["usage"] == {**usage, "output_tokens": 0}


@pytest.mark.point(12)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"system": "Be brief.", "tools": [TOOL]},
        {"messages": [user([IMAGE, {"type": "text", "text": "What is it?"}])]},
        {"messages": [user("Hi"), assistant("Well,")]},
    ],
)
async def test_count_tokens_is_what_the_request_then_costs(here: Site, more: Any) -> None:
    answer = await here.ask(path="/v1/messages/count_tokens", max_tokens=None, **more)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    usage = (await here.told(**more))["usage"]
    assert answer.json() == {"input_tokens": usage["input_tokens"]}
    assert len(here.engine.asked) == 1, "counting asks the model for nothing"


async def test_a_prompt_over_the_window_is_counted_whole() -> None:
    async with site(FakeEngine(window=64)) as here:
        messages = [user("word " * 100), assistant("so"), user("word " * 100)]
        answer = await here.ask(path="/v1/messages/count_tokens", messages=messages)
        assert answer.json()["input_tokens"] > 200


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"model": None}, 400, "model is required"),
        ({"messages": None}, 400, "messages is required"),
        ({"model": "x"}, 404, "model 'x' not found"),
        ({"model": "plain", "messages": [user([IMAGE])]}, 400, "plain:latest does not support image input"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, 400, None),
    ],
)
async def test_count_tokens_checks_as_messages_does(
    here: Site, body: Any, status: int, text: str | None
) -> None:
    answer = await here.ask(path="/v1/messages/count_tokens", **body)
    assert answer.status_code == status
    assert text in (None, answer.json()["error"]["message"])


# Failures


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.InvalidRequest("x"), 400, "invalid_request_error"),
        (errors.Unauthorized("x"), 401, "authentication_error"),
        (errors.Forbidden("x"), 403, "permission_error"),
        (errors.ModelNotFound("x"), 404, "not_found_error"),
        (errors.BodyTooLarge("x"), 413, "request_too_large"),
        (errors.TokenRateExceeded("x", 7), 429, "rate_limit_error"),
        (errors.Overloaded("x"), 529, "overloaded_error"),
        (errors.BodiesFull("x"), 529, "overloaded_error"),
        (errors.Draining(), 529, "overloaded_error"),
        (errors.EngineDied(), 500, "api_error"),
        (errors.DeadlineExceeded("x"), 504, "api_error"),
        (KeyError("secret"), 500, "api_error"),
    ],
)
def test_a_failure_has_its_status_and_type(error: Exception, status: int, kind: str) -> None:
    answer = failure(error)
    told = json.loads(answer.body)
    assert (answer.status, told["error"]["type"]) == (status, kind)
    assert answer.headers["request-id"] == told["request_id"]
    assert headers_of(error).items() <= answer.headers.items()
    assert "secret" not in told["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_answer_has_its_status(stream: bool) -> None:
    engine = scripted("a", error=errors.EngineFailed("broken"))
    async with site(engine) as here:
        answer = await here.ask(stream=stream)
        assert (answer.status_code, answer.json()["error"]) == (
            500,
            {"type": "api_error", "message": "broken"},
        )
        assert answer.json()["request_id"] == answer.headers["request-id"]


async def test_a_failure_in_mid_stream_is_an_event() -> None:
    async with site(scripted("a", "b", error=errors.EngineFailed("broken"), error_after=1)) as here:
        answer = await here.ask(stream=True)
        *_, (name, event) = frames(answer.text)
        assert name == "error"
        assert event["error"] == {"type": "api_error", "message": "broken"}
        assert event["request_id"] == answer.headers["request-id"]


async def test_an_unknown_model_is_not_found(here: Site) -> None:
    answer = await here.ask(model="x")
    assert (answer.status_code, answer.json()["error"]) == (
        404,
        {"type": "not_found_error", "message": "model 'x' not found"},
    )


async def test_a_body_that_is_too_large_is_told_before_it_is_read() -> None:
    async with site(max_body_bytes=100) as here:
        answer = await here.ask(messages=[user("x" * 100)])
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")
        assert answer.headers["request-id"] == answer.json()["request_id"]


async def test_what_comes_before_the_route_is_in_anthropics_shape(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    limits = {"requests_per_minute": 1}
    record = {"id": "client", "hash": HASH, "scopes": ["inference"], "models": ["m"], "limits": limits}
    file.write_text(yaml.safe_dump({"keys": [record]}))
    async with site(keys_file=file) as here:
        told = [await here.ask()]
        here.client.headers["authorization"] = f"Bearer {KEY}"
        told += [await here.ask(model="plain"), await here.ask()]
    found = [(answer.status_code, answer.json()["error"]["type"]) for answer in told]
    assert found == [
        (401, "authentication_error"),
        (403, "permission_error"),
        (429, "rate_limit_error"),
    ]
    assert int(told[-1].headers["retry-after"]) > 0
    for answer in told:
        assert answer.headers["request-id"] == answer.json()["request_id"]


def test_a_full_queue_is_an_overload() -> None:
    async def never(_: int) -> None:
        await asyncio.Event().wait()

    def engine() -> FakeEngine:
        return FakeEngine(slots=1, default=Reply(("a",), gate=never))

    body = {"model": "m", "max_tokens": 1, "messages": [user("Hi")]}
    with (
        fake_site(fake_model("m"), engine=engine, max_queue=0, request_timeout=1) as here,
        ThreadPoolExecutor(2) as pool,
    ):
        answers = list(pool.map(lambda _: here.client.post("/v1/messages", json=body), range(2)))
    refused = min(answers, key=lambda answer: answer.status_code != 529)
    assert refused.status_code == 529
    assert refused.json()["error"] == {
        "type": "overloaded_error",
        "message": "server busy, please try again.  maximum pending requests exceeded",
    }


async def test_the_models_own_system_prompt_holds_where_none_is_sent() -> None:
    model = fake_model("m")
    model = replace(model, spec=replace(model.spec, system="Be kind."))
    async with site(models=[model]) as here:
        assert (await here.shown(user("Hi"))).startswith("<|im_start|>system\nBe kind.")
        assert "Be kind." not in await here.shown(user("Hi"), system="Be brief.")
