"""Compaction: `POST /v1/responses/compact`, the trigger within a stream, and what is made of its items."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.api.openai.responses.items import read_input
from app.core.errors import EngineFailed
from app.core.events import Content, ToolCall
from app.core.limits import DEFAULTS
from app.core.model import Capability
from app.engine.base import Prompt, Run
from app.engine.fake.script import Reply
from tests.api.responding import USER, Site, replying, site

HISTORY: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "Count the files."},
    {"type": "reasoning", "summary": [], "encrypted_content": "hm"},
    {"type": "function_call", "call_id": "a", "name": "shell", "arguments": '{"command":"ls"}'},
    {"type": "function_call_output", "call_id": "a", "output": "x y"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Two."}]},
    {"type": "function_call", "call_id": "b", "name": "shell", "arguments": "{}"},
]
"""Seven items, the last a call that waits for its answer; ids leave the reasoning out."""


def summing(*answers: dict[str, Any] | None) -> Callable[[Prompt, Run], Reply]:
    """A model that calls `create_summary` with each of these in turn; None is text in place of a call."""

    def script(_: Prompt, run: Run) -> Reply:
        # An attempt adds two messages to the prompt of the one before.
        turn = sum(each.role == "assistant" and each.text.startswith("(no ") for each in run.chat.messages)
        arguments = answers[min(turn, len(answers) - 1)]
        if arguments is None:
            return replying(Content("no call"))
        return replying(ToolCall(0, "c", "create_summary", arguments), cached_tokens=2)

    return script


GOOD = {"summary": "There are two files.", "retain_item_ids": ["item_000002"]}


def payload_of(item: dict[str, Any]) -> dict[str, Any]:
    assert item["type"] == "compaction"
    return json.loads(item["encrypted_content"])


async def compacted(made: Site, items: Any = HISTORY) -> dict[str, Any]:
    answer = await made.post({"input": items}, "/compact")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_answer_of_compact() -> None:
    async with site(summing(GOOD)) as made:
        document = await compacted(made)
    assert list(document) == ["id", "object", "created_at", "output", "usage"]
    assert document["object"] == "response.compaction"
    number = int(document["id"].removeprefix("resp_compact_"))
    assert number // 1_000_000_000 == document["created_at"]
    [item] = document["output"]
    assert payload_of(item) == {
        "type": "ollama_compaction",
        "version": 1,
        "summary": "There are two files.",
        "retained": [
            {"role": "user", "content": "Count the files."},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "b", "function": {"name": "shell", "arguments": {}}}],
            },
        ],
    }
    usage = document["usage"]
    assert usage["input_tokens_details"] == {"cached_tokens": 2}
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


async def test_what_the_model_is_asked() -> None:
    async with site(summing(GOOD)) as made:
        await compacted(made)
        chat = made.chat
    [tool] = chat.tools
    assert tool["function"]["name"] == "create_summary"
    assert [each.role for each in chat.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    text = "\n".join(each.text for each in chat.messages[1:])
    for line in (
        "[item_000001] (system) Be brief.",
        "[item_000002] Count the files.",
        '[item_000003] calls shell (a) with {"command":"ls"}',
        "[item_000004] answer to a: x y",
        "[item_000005] Two.",
        "[item_000006] calls shell (b) with {}",
    ):
        assert line in text


async def test_a_call_and_its_answer_stay_together() -> None:
    async with site(summing({**GOOD, "retain_item_ids": ["item_000004"]})) as made:
        retained = payload_of((await compacted(made))["output"][0])["retained"]
    assert [(each["role"], each.get("tool_call_id")) for each in retained] == [
        ("assistant", None),
        ("tool", "a"),
        ("assistant", None),
    ]
    assert retained[1] == {"role": "tool", "content": "x y", "tool_name": "shell", "tool_call_id": "a"}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        {},
        {"summary": "  ", "retain_item_ids": []},
        {"summary": "s", "retain_item_ids": ["item_000099"]},
        {"summary": "s", "retain_item_ids": "item_000001"},
        {"summary": "s", "retain_item_ids": [["item_000001"]]},
    ],
    ids=str,
)
async def test_a_bad_summary_is_repaired_once(bad: dict[str, Any] | None) -> None:
    async with site(summing(bad, GOOD)) as made:
        document = await compacted(made)
        assert len(made.engine.asked) == 2
        tokens = sum(len(asked.prompt.token_ids) for asked in made.engine.asked)
    assert payload_of(document["output"][0])["summary"] == "There are two files."
    assert document["usage"]["input_tokens"] == tokens
    async with site(summing(bad, bad)) as made:
        answer = await made.post({"input": HISTORY}, "/compact")
        assert len(made.engine.asked) == 2
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "message": "compaction failed; the selected model did not return a valid summary and the original "
        "conversation is unchanged",
        "type": "api_error",
        "param": None,
        "code": "compaction_failed",
    }


PICTURE = {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"model": ""}, "model is required"),
        ({}, "input is required"),
        (
            {"input": 1},
            "input must be a string or array: json: cannot unmarshal number into Go value of type "
            "[]json.RawMessage",
        ),
        (
            {"input": [USER], "previous_response_id": "resp_1"},
            "previous_response_id is not supported, send the whole conversation in input instead",
        ),
        ({"input": []}, "compaction input is empty"),
        ({"input": ""}, "compaction input is empty"),
        (
            {"input": [USER, {"type": "compaction_trigger"}]},
            "compaction_trigger is only valid on POST /v1/responses",
        ),
        ({"input": [USER, USER, USER, PICTURE]}, "input[3]: image inputs are not supported by compaction"),
        (
            {"input": [{"type": "function_call", "name": "f"}]},
            "item_000001: function call is missing call_id",
        ),
        (
            {"input": [HISTORY[3], HISTORY[3]]},
            'item_000002: function call has the call_id of another, "a"',
        ),
        ({"input": [HISTORY[4]]}, 'item_000001: function output has no matching call "a"'),
        (
            {"input": [{"type": "compaction", "encrypted_content": "gAAAA"}]},
            "input[0]: unsupported compaction item: encrypted_content is not an Ollama payload",
        ),
        (
            {
                "input": [
                    {"type": "compaction", "encrypted_content": '{"type":"ollama_compaction","version":2}'}
                ]
            },
            "input[0]: unsupported Ollama compaction payload type or version",
        ),
    ],
    ids=str,
)
async def test_what_compact_refuses(body: dict[str, Any], text: str) -> None:
    async with site() as made:
        answer = await made.post(body, "/compact")
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": text,
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request_error",
    }


async def test_no_body() -> None:
    async with site() as made:
        answer = await made.client.post("/v1/responses/compact")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "missing request body"
    assert answer.json()["error"]["code"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("capabilities", "body", "status", "code"),
    [
        (("completion",), {}, 400, None),
        (("completion", "tools"), {"model": "nosuch"}, 404, None),
    ],
)
async def test_failures_of_the_model_itself_come_through(
    capabilities: tuple[Capability, ...], body: dict[str, Any], status: int, code: str | None
) -> None:
    async with site(None, *capabilities) as made:
        answer = await made.post({"input": "Hi", **body}, "/compact")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


TRIGGER = {"type": "compaction_trigger"}


async def test_a_trigger_compacts_within_a_stream() -> None:
    async with site(summing(GOOD)) as made:
        events = await made.events(input=[*HISTORY, TRIGGER], instructions="unused", temperature=0.5)
        run = made.engine.asked[-1].run
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "output_item.done",
        "completed",
    ]
    item = events[3]["item"]
    assert payload_of(item)["summary"] == "There are two files."
    assert events[-1]["response"]["output"] == [item]
    assert events[-1]["response"]["usage"]["input_tokens"] > 0
    assert run.sampling.temperature == 0.5


@pytest.mark.parametrize(
    ("items", "stream", "text"),
    [
        ([USER, TRIGGER], False, "compaction_trigger requires stream=true"),
        (
            [TRIGGER, USER],
            True,
            "compaction_trigger must be the final and only compaction trigger",
        ),
        (
            [USER, TRIGGER, TRIGGER],
            True,
            "compaction_trigger must be the final and only compaction trigger",
        ),
        ([TRIGGER], True, "compaction input is empty"),
    ],
)
async def test_triggers_that_are_refused(items: list[Any], stream: bool, text: str) -> None:
    async with site() as made:
        assert await made.refused(input=items, stream=stream) == (400, text)


async def test_a_trigger_that_fails_says_so_in_its_stream() -> None:
    async with site(summing(None)) as made:
        events = await made.events(input=[*HISTORY, TRIGGER])
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-1]["response"]["error"]["code"] == "compaction_failed"
    async with site(Reply(("x",), error=EngineFailed("out of order"))) as made:
        answer = await made.post({"input": [*HISTORY, TRIGGER], "stream": True})
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "out of order")


async def test_a_compaction_stands_for_what_was_before_it() -> None:
    """But for what the user and the developer said and the client still sends."""
    async with site(summing({**GOOD, "retain_item_ids": ["item_000004", "item_000005"]})) as made:
        [item] = (await compacted(made))["output"]
        await made.respond(input=[*HISTORY, item, {"role": "user", "content": "Go on."}])
        messages = made.chat.messages
    assert [(each.role, each.text) for each in messages] == [
        ("system", "Be brief."),
        ("user", "Count the files."),
        ("assistant", ""),
        ("tool", "There are two files."),
        ("assistant", ""),
        ("tool", "x y"),
        ("assistant", "Two."),
        ("user", "Go on."),
    ]
    [summary] = messages[2].tool_calls
    assert (summary.name, summary.arguments) == ("ollama_compaction_summary", {"version": 1})
    assert len(summary.id.removeprefix("call_ollama_compaction_")) == 12
    assert messages[3].tool_call_id == summary.id
    assert [call.id for call in messages[4].tool_calls] == ["a"]
    assert [call.id for call in messages[6].tool_calls] == ["b"]


async def test_the_newest_compaction_counts() -> None:
    one, two = (
        {
            "type": kind,
            "encrypted_content": json.dumps(
                {
                    "type": "ollama_compaction",
                    "version": 1,
                    "summary": text,
                    "retained": [{"role": "user", "content": f"kept by {text}"}],
                }
            ),
        }
        for kind, text in (("compaction", "one"), ("compaction_summary", "two"))
    )
    async with site() as made:
        await made.respond(input=[one, USER, two])
        texts = [(each.role, each.text) for each in made.chat.messages]
    assert texts == [("user", "Hi"), ("assistant", ""), ("tool", "two"), ("user", "kept by two")]


async def test_thousands_of_compactions_are_read_in_one_pass() -> None:
    """Each stands for what was before it, which is looked at once."""
    packed = {"type": "ollama_compaction", "version": 1, "summary": "s", "retained": []}
    items = [USER] * 4_000 + [{"type": "compaction", "encrypted_content": json.dumps(packed)}] * 4_000
    begun = time.process_time()
    found = read_input(items, DEFAULTS)
    assert time.process_time() - begun < 3
    assert len(found.items) == 4_002
    assert found.places == [*range(4_000), 7_999, 7_999]


async def test_a_compaction_can_be_compacted() -> None:
    async with site(summing(GOOD, GOOD)) as made:
        [item] = (await compacted(made))["output"]
        again = await compacted(made, [item, {"type": "function_call_output", "call_id": "b", "output": "z"}])
        text = "\n".join(each.text for each in made.chat.messages)
    assert "What was before, as it was summarised then:\nThere are two files." in text
    retained = payload_of(again["output"][0])["retained"]
    assert [each["role"] for each in retained] == ["assistant", "tool"]
    assert all("ollama_compaction_summary" not in str(each) for each in retained)


async def test_the_payload_is_within_the_limits() -> None:
    packed = json.dumps(
        {
            "type": "ollama_compaction",
            "version": 1,
            "summary": "s",
            "retained": [{"role": "user", "content": "a"}] * 3,
        }
    )
    async with site(limits={"messages": 2}) as made:
        status, text = await made.refused(input=[{"type": "compaction", "encrypted_content": packed}])
    assert (status, text) == (400, "input[0]: retained messages: at most 2, this request has 3")
