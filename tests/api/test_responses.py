"""`POST /v1/responses`: its fields, and what an answer is (docs/reference 14)."""

from dataclasses import replace
from typing import Any

import pytest

from app.core.errors import EngineFailed
from app.core.events import Content, Thinking, TokenLogprob, ToolCall
from app.core.model import ThinkingLevels
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from tests.api.responding import THINKS_SAYS_CALLS, USER, WEATHER, replying, site

KEYS = [
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "incomplete_details",
    "model",
    "previous_response_id",
    "instructions",
    "output",
    "error",
    "tools",
    "tool_choice",
    "truncation",
    "parallel_tool_calls",
    "text",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "temperature",
    "reasoning",
    "usage",
    "max_output_tokens",
    "max_tool_calls",
    "store",
    "background",
    "service_tier",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
]


@pytest.mark.point(229)
async def test_an_answer_as_one_document() -> None:
    async with site() as made:
        answer = await made.post({"input": "Hi"})
    document = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert answer.text.endswith("}\n")
    assert list(document) == KEYS
    assert (document["object"], document["status"], document["model"]) == ("response", "completed", "m")
    assert document["id"].startswith("resp_")
    [item] = document["output"]
    assert list(item) == ["id", "type", "status", "role", "content"]
    text = {
        "type": "output_text",
        "text": "Hello from the scripted engine.",
        "annotations": [],
        "logprobs": [],
    }
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [text]
    usage = document["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert (usage["output_tokens"], usage["output_tokens_details"]) == (5, {"reasoning_tokens": 0})


async def test_defaults() -> None:
    async with site() as made:
        document = await made.respond(input="Hi")
        run = made.engine.asked[-1].run
    assert run.sampling.temperature == 1.0
    assert run.sampling.top_p == 0.9
    assert document["temperature"] == document["top_p"] == 1.0
    assert (document["tool_choice"], document["truncation"]) == ("auto", "disabled")
    assert (document["store"], document["service_tier"], document["metadata"]) == (False, "default", {})
    assert document["text"] == {"format": {"type": "text"}}
    assert document["reasoning"] is None


async def test_fields_that_are_honoured() -> None:
    async with site() as made:
        document = await made.respond(
            input="Hi", temperature=0.3, top_p=0.5, max_output_tokens=3, instructions="Be brief."
        )
        run = made.engine.asked[-1].run
        messages = made.chat.messages
    assert (run.sampling.temperature, run.sampling.top_p, run.max_tokens) == (0.3, 0.5, 3)
    assert [(each.role, each.text) for each in messages] == [("system", "Be brief."), ("user", "Hi")]
    assert (document["temperature"], document["top_p"], document["max_output_tokens"]) == (0.3, 0.5, 3)
    assert document["instructions"] == "Be brief."


async def test_fields_that_are_repeated_and_change_nothing() -> None:
    """Each a no-op of docs/responses.md."""
    repeated = {
        "metadata": {"z": "1", "a": "<2>"},
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "max_tool_calls": 4,
    }
    silent = {
        "store": True,
        "user": "u",
        "service_tier": "priority",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"mode": "implicit", "prewarm": False},
        "reasoning": {"context": "all_turns", "mode": "pro"},
        "access_programs": {},
        "background_options": {},
        "image": {"context_compression": "auto"},
        "stream_options": {"include_obfuscation": False},
        "client_metadata": {"x": 1},
        "include": ["reasoning.encrypted_content"],
        "conversation": None,
        "previous_response_id": None,
        "background": False,
        "unheard_of": 1,
    }
    async with site() as made:
        document = await made.respond(input="Hi", text={"verbosity": "low"}, **repeated, **silent)
    assert {key: document[key] for key in repeated} == repeated
    assert list(document["metadata"]) == ["z", "a"]
    assert document["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert (document["store"], document["service_tier"]) == (False, "default")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            {"previous_response_id": "resp_1"},
            "previous_response_id is not supported, send the whole conversation in input instead",
        ),
        (
            {"background": True},
            "background and conversation are not supported; send the whole conversation in input instead",
        ),
        (
            {"conversation": "conv_1"},
            "background and conversation are not supported; send the whole conversation in input instead",
        ),
        (
            {"prompt": {"id": "p"}},
            "prompt templates are not supported, send their text in instructions and input",
        ),
        (
            {"context_management": [{"type": "compaction"}]},
            "context_management is not supported, ask for a compaction by POST /v1/responses/compact",
        ),
        (
            {"moderation": {"model": "x"}},
            "moderation is not supported: nothing that is asked or answered here is moderated",
        ),
        (
            {"prompt_cache_options": {"prewarm": True}},
            "prompt_cache_options.prewarm is not supported: every request is answered",
        ),
        ({"truncation": "middle"}, 'invalid truncation: "middle" (must be auto or disabled)'),
        ({"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        (
            {"service_tier": "gold"},
            'invalid service_tier: "gold" (must be "auto", "default", "priority" or "flex")',
        ),
        ({"tool_choice": "required"}, "tool_choice: there are no tools to choose from"),
        ({"think": 1}, "think must be a boolean or string"),
        (
            {"datai": {"tools": {"net": True}}},
            "datai: built-in tools are asked for on /api; here give web_search as a tool",
        ),
        ({"text": {"format": {"type": "grammar"}}}, 'text.format: unknown type "grammar"'),
        (
            {"text": {"format": {"type": "json_schema", "name": "x"}}},
            "text.format: json_schema needs a schema, which must be an object",
        ),
        (
            {"reasoning": {"effort": "bogus"}},
            'invalid reasoning value: "bogus" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", '
            '"max", or "none")',
        ),
        ({"model": " "}, "model is required"),
        (
            {"model": 1},
            "json: cannot unmarshal number into Go struct field ResponsesRequest.model of type string",
        ),
        (
            {"temperature": "hot"},
            "json: cannot unmarshal string into Go struct field ResponsesRequest.temperature of type float64",
        ),
        (
            {"reasoning": {"effort": 2}},
            "json: cannot unmarshal number into Go struct field ResponsesReasoning.reasoning.effort of type "
            "string",
        ),
        (
            {"input": 7},
            "input must be a string or array: json: cannot unmarshal number into Go value of type "
            "[]json.RawMessage",
        ),
    ],
    ids=str,
)
async def test_what_is_refused(body: dict[str, Any], text: str) -> None:
    async with site() as made:
        assert await made.refused(**{"input": "Hi", **body}) == (400, text)
        assert not made.engine.asked


@pytest.mark.parametrize("body", [b"", b" \n"])
async def test_no_body(body: bytes) -> None:
    async with site() as made:
        answer = await made.client.post("/v1/responses", content=body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "EOF")


async def test_a_body_that_is_no_object() -> None:
    async with site() as made:
        answer = await made.client.post("/v1/responses", json=[])
    text = "json: cannot unmarshal array into Go value of type openai.ResponsesRequest"
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, text)


async def test_an_unknown_model() -> None:
    async with site() as made:
        answer = await made.post({"model": "nosuch", "input": "Hi", "stream": True})
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "model 'nosuch' not found",
        "type": "not_found_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize("body", [{}, {"input": ""}, {"input": []}, {"input": None}])
async def test_a_request_without_input_loads(body: dict[str, Any]) -> None:
    async with site() as made:
        document = await made.respond(**body)
        events = await made.events(**body)
        assert not made.engine.asked
    assert document["status"] == "completed"
    assert document["output"][0]["content"][0]["text"] == ""
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


@pytest.mark.point(230)
async def test_a_stream_of_text() -> None:
    async with site() as made:
        answer = await made.post({"input": "Hi", "stream": True})
        events = await made.events(input="Hi")
    assert answer.headers["cache-control"] == "no-cache"
    assert "[DONE]" not in answer.text
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 5,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["response"]["status"] for event in events[:2]] == ["in_progress"] * 2
    deltas = [event["delta"] for event in events if event["type"].endswith("text.delta")]
    assert "".join(deltas) == events[9]["text"] == "Hello from the scripted engine."


async def test_the_events_of_reasoning_text_and_calls() -> None:
    """Each its own item, in the order of the model: text beside calls is not lost."""
    async with site(THINKS_SAYS_CALLS) as made:
        events = await made.events(input=[USER], tools=[WEATHER])
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        *(
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
        )
        * 2,
        "completed",
    ]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in done] == [0, 1, 2, 3]
    assert [event["item"] for event in done] == events[-1]["response"]["output"]
    reasoning, message, one, two = (event["item"] for event in done)
    assert reasoning["summary"] == [{"type": "summary_text", "text": "hmm"}]
    assert reasoning["encrypted_content"] == "hmm"
    assert message["content"][0]["text"] == "I look it up."
    assert (one["call_id"], one["name"], one["arguments"]) == ("call_a", "get_weather", '{"city":"Paris"}')
    assert two["call_id"] == "call_b"
    ids = {item["id"] for item in (reasoning, message, one, two)}
    assert len(ids) == 4
    for event in events:
        if "item_id" in event:
            assert event["item_id"] == done[event["output_index"]]["item"]["id"]


async def test_a_document_holds_what_its_stream_does() -> None:
    async with site(THINKS_SAYS_CALLS) as made:
        document = await made.respond(input=[USER], tools=[WEATHER])
        events = await made.events(input=[USER], tools=[WEATHER])
    streamed = events[-1]["response"]
    volatile = ("id", "created_at", "completed_at")
    assert [_without_ids(item) for item in document["output"]] == [
        _without_ids(item) for item in streamed["output"]
    ]
    for key in KEYS:
        if key not in (*volatile, "output"):
            assert document[key] == streamed[key], key


def _without_ids(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "id"}


async def test_the_keys_of_events_are_in_the_order_of_their_names() -> None:
    """What the client sent keeps its own."""
    tools = [{**WEATHER, "parameters": {"type": "object", "properties": {"z": {}, "a": {}}}}]
    async with site(THINKS_SAYS_CALLS) as made:
        events = await made.events(input=[USER], tools=tools)
    assert list(events[0]["response"]["tools"][0]["parameters"]["properties"]) == ["z", "a"]
    for event in events:
        for key in ("tools", "text", "metadata", "tool_choice"):
            event.get("response", {}).pop(key, None)
        _check_order(event)


def _check_order(value: Any) -> None:
    if isinstance(value, dict):
        assert list(value) == sorted(value)
        for item in value.values():
            _check_order(item)
    elif isinstance(value, list):
        for item in value:
            _check_order(item)


async def test_markup_is_escaped_like_everywhere() -> None:
    async with site(Reply(("<b>", " & ", "half"))) as made:
        answer = await made.post({"input": "Hi", "stream": True})
    assert "\\u003cb\\u003e" in answer.text
    assert "<b>" not in answer.text


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_was_cut_says_so(stream: bool) -> None:
    """Where Ollama says `completed`: half an answer must not look like a whole one."""
    async with site() as made:
        if stream:
            last = (await made.events(input="Hi", max_output_tokens=2))[-1]
            assert last["type"] == "response.incomplete"
            document = last["response"]
        else:
            document = await made.respond(input="Hi", max_output_tokens=2)
    assert (document["status"], document["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
    assert document["completed_at"] is None
    [item] = document["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "Hello from")


async def test_a_failure_within_a_stream_is_told() -> None:
    reply = Reply(("one", " two"), error=EngineFailed("the engine is out of order"), error_after=1)
    async with site(reply) as made:
        events = await made.events(input="Hi")
    error, failed = events[-2:]
    assert error == {
        "type": "error",
        "code": "server_error",
        "message": "the engine is out of order",
        "param": None,
        "sequence_number": len(events) - 2,
    }
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "the engine is out of order"}
    [item] = failed["response"]["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "one")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_stream_has_its_status(stream: bool) -> None:
    async with site(Reply(("one",), error=EngineFailed("the engine is out of order"))) as made:
        answer = await made.post({"input": "Hi", "stream": stream})
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "api_error")


async def test_tokens_of_the_reasoning() -> None:
    async with site(replying(Thinking("hm"), Content("a"))) as made:
        usage = (await made.respond(input="Hi"))["usage"]
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < usage["output_tokens"]


async def test_cached_tokens() -> None:
    async with site(replying(Content("a"), cached_tokens=3)) as made:
        document = await made.respond(input="Hi")
    assert document["usage"]["input_tokens_details"] == {"cached_tokens": 3}


@pytest.mark.parametrize(
    "body", [{"top_logprobs": 2}, {"include": ["message.output_text.logprobs"]}], ids=["top", "include"]
)
async def test_logprobs(body: dict[str, Any]) -> None:
    top = body.get("top_logprobs", 0)
    async with site(Reply(("Hello", " you"))) as made:
        document = await made.respond(input="Hi", **body)
        events = await made.events(input="Hi", **body)
    told = document["output"][0]["content"][0]["logprobs"]
    assert [each["token"] for each in told] == ["Hello", " you"]
    assert told[0]["bytes"] == list(b"Hello")
    assert [len(each["top_logprobs"]) for each in told] == [top, top]
    deltas = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert [each for delta in deltas for each in delta] == told
    [done] = [event for event in events if event["type"] == "response.output_text.done"]
    assert done["logprobs"] == told


async def test_logprobs_of_calls_make_no_message() -> None:
    """Tokens that became a call have no text that theirs could stand beside."""
    scored = [TokenLogprob("a", -1.0, b"a")]
    call = ToolCall(0, "c", "get_weather", {})
    async with site(replying(Content("", scored), call)) as made:
        document = await made.respond(input="Hi", tools=[WEATHER], top_logprobs=1)
        events = await made.events(input="Hi", tools=[WEATHER], top_logprobs=1)
    assert [item["type"] for item in document["output"]] == ["function_call"]
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["function_call"]


async def test_minus_infinity_is_a_number() -> None:
    scored = [TokenLogprob("a", float("-inf"), b"a")]
    async with site(replying(Content("a", scored))) as made:
        document = await made.respond(input="Hi", top_logprobs=1)
    assert document["output"][0]["content"][0]["logprobs"][0]["logprob"] == -9999.0


async def test_formats() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    async with site(Reply(('{"a":1}',))) as made:
        document = await made.respond(input="Hi", text={"format": wanted})
        constraint = made.engine.asked[-1].run.constraint
        assert constraint is not None
        assert constraint.schema == schema
        assert document["text"] == {"format": wanted}
        await made.respond(input="Hi", text={"format": {"type": "json_object"}})
        constraint = made.engine.asked[-1].run.constraint
        assert constraint is not None
        assert constraint.schema is None
        await made.respond(input="Hi", text={"format": {"type": "text"}})
        assert made.engine.asked[-1].run.constraint is None


NAMED = ThinkingLevels((False, "low", "xhigh"), "low")
SWITCH = ThinkingLevels((False, True), True)


@pytest.mark.parametrize(
    ("levels", "body", "think"),
    [
        (None, {}, None),
        (None, {"reasoning": {"effort": None, "summary": "auto"}}, None),
        (None, {"reasoning": {"effort": "none"}}, False),
        (None, {"reasoning": {"effort": "minimal"}}, "low"),
        (None, {"reasoning": {"effort": "xhigh"}}, "max"),
        (None, {"reasoning": {"effort": "high"}, "think": False}, False),
        (NAMED, {"reasoning": {"effort": "xhigh"}}, "xhigh"),
        (NAMED, {"reasoning": {"effort": "bogus"}}, "low"),
        (NAMED, {}, "low"),
        (SWITCH, {"reasoning": {"effort": "none"}}, False),
        (SWITCH, {"reasoning": {"effort": "minimal"}}, True),
        (SWITCH, {"think": False}, False),
    ],
    ids=str,
)
async def test_effort(levels: ThinkingLevels | None, body: dict[str, Any], think: object) -> None:
    model = fake_model("m")
    async with site(models=[replace(model, facts=replace(model.facts, thinking=levels))]) as made:
        await made.respond(input="Hi", **body)
        assert made.engine.asked[-1].run.think == think


@pytest.mark.parametrize(("tier", "told", "later"), [("flex", "flex", 1), ("priority", "default", 0)])
async def test_a_service_tier_only_puts_back(tier: str, told: str, later: int) -> None:
    async with site() as made:
        await made.respond(input="Hi")
        document = await made.respond(input="Hi", service_tier=tier)
        before, after = (asked.run.priority for asked in made.engine.asked)
    assert document["service_tier"] == told
    assert (after > before) == bool(later)


async def test_a_model_that_cannot_think() -> None:
    async with site(None, "completion") as made:
        assert await made.refused(input="Hi", reasoning={"effort": "high"}) == (
            400,
            '"m" does not support thinking',
        )
        await made.respond(input="Hi", reasoning={"effort": "none"})


async def test_what_the_window_does_not_hold() -> None:
    """Old messages go, as everywhere, unless the client wants none to."""
    history = [{"role": "user", "content": f"word {number} " * 40} for number in range(60)]
    async with site() as made:
        await made.respond(input=history)
        kept = len(made.chat.messages)
        assert 0 < kept < len(history)
        await made.respond(input=history, truncation="auto")
        status, text = await made.refused(input=history, truncation="disabled")
    assert status == 400
    assert "longer than the context length" in text


async def test_reasoning_without_an_answer_has_an_empty_message() -> None:
    async with site(replying(Thinking("hm"))) as made:
        document = await made.respond(input="Hi")
        events = await made.events(input="Hi")
    assert [item["type"] for item in document["output"]] == ["reasoning", "message"]
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning", "message"]


async def test_text_after_a_call_is_a_message_of_its_own() -> None:
    call = ToolCall(0, "c", "get_weather", {})
    async with site(replying(Content("a"), call, Content("b"))) as made:
        document = await made.respond(input="Hi", tools=[WEATHER])
        events = await made.events(input="Hi", tools=[WEATHER])
    kinds = ["message", "function_call", "message"]
    assert [item["type"] for item in document["output"]] == kinds
    assert [item["type"] for item in events[-1]["response"]["output"]] == kinds
