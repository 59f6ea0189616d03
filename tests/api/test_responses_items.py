"""The items of `input` as messages of a prompt (docs/reference 14.2)."""

import base64
import json
from typing import Any

import pytest

from app.core.request import Image, Message, PastToolCall, Text
from tests.api.responding import USER, site

PICTURE = b"\x89PNG\r\n\x1a\n not a whole one"
DATA_URL = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"


def call(name: str, call_id: str, arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "name": name, "call_id": call_id, "arguments": arguments, **more}


def answer(call_id: str, output: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


async def messages(*items: dict[str, Any], **body: Any) -> tuple[Message, ...]:
    async with site() as made:
        await made.respond(input=list(items), **body)
        return made.chat.messages


async def test_a_text_is_a_user_message() -> None:
    async with site() as made:
        await made.respond(input="Hi")
        assert made.chat.messages == (Message.of("user", "Hi"),)


async def test_messages_with_and_without_a_type() -> None:
    found = await messages(
        {"role": "User", "content": "a"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "c"}, {"type": "input_text", "text": "d"}],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "user", "content": "e"},
    )
    assert [(each.role, each.text) for each in found] == [
        ("user", "a"),
        ("assistant", "b"),
        ("user", "cd"),
        ("assistant", "no"),
        ("user", "e"),
    ]


async def test_pictures_stay_between_the_texts_around_them() -> None:
    content = [
        {"type": "input_text", "text": "before"},
        {"type": "input_image", "image_url": DATA_URL, "detail": "low"},
        {"type": "input_text", "text": "after"},
    ]
    [found] = await messages({"role": "user", "content": content})
    assert found.parts == (Text("before"), Image(PICTURE), Text("after"))


async def test_instructions_and_what_developers_say_first_are_one_system_message() -> None:
    """A template may refuse a second one. What comes later stays where it is."""
    found = await messages(
        {"role": "developer", "content": "b"},
        {"role": "system", "content": "c"},
        USER,
        {"role": "developer", "content": "d"},
        instructions="a",
    )
    assert [(each.role, each.text) for each in found] == [
        ("system", "a\n\nb\n\nc"),
        ("user", "Hi"),
        ("system", "d"),
    ]


async def test_calls_belong_to_the_assistants_message_before_them() -> None:
    found = await messages(
        USER,
        {"role": "assistant", "content": "I look."},
        call("get_weather", "c1", '{"city": "Paris"}'),
        call("js", "c2", "", namespace="mcp__repl"),
        answer("c1", "sunny"),
        answer("c2", [{"type": "input_text", "text": "4"}, {"type": "input_image", "image_url": DATA_URL}]),
    )
    assert found[1:] == (
        Message(
            "assistant",
            (Text("I look."),),
            tool_calls=(
                PastToolCall("get_weather", {"city": "Paris"}, "c1"),
                PastToolCall("mcp__repl.js", {}, "c2"),
            ),
        ),
        Message("tool", (Text("sunny"),), tool_name="get_weather", tool_call_id="c1"),
        Message("tool", (Text("4"), Image(PICTURE)), tool_name="mcp__repl.js", tool_call_id="c2"),
    )


@pytest.mark.parametrize(
    "item",
    [
        {"encrypted_content": "hm", "summary": [{"type": "summary_text", "text": "other"}]},
        {"content": [{"type": "reasoning_text", "text": "hm"}], "summary": []},
        {"encrypted_content": None, "summary": [{"type": "summary_text", "text": "hm"}]},
    ],
    ids=["encrypted", "content", "summary"],
)
async def test_reasoning_goes_to_the_assistants_next_message_or_call(item: dict[str, Any]) -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", **item}
    found = await messages(
        USER,
        reasoning,
        {"role": "assistant", "content": "a"},
        reasoning,
        call("now", "c"),
        answer("c", "noon"),
        reasoning,
        USER,
    )
    assert [(each.role, each.thinking, each.text, len(each.tool_calls)) for each in found] == [
        ("user", "", "Hi", 0),
        ("assistant", "hm", "a", 0),
        ("assistant", "hm", "", 1),
        ("tool", "", "noon", 0),
        ("assistant", "hm", "", 0),
        ("user", "", "Hi", 0),
    ]


async def test_calls_of_tools_that_are_no_functions() -> None:
    found = await messages(
        USER,
        {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin Patch"},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "Done"},
        {
            "type": "local_shell_call",
            "id": "lsh_1",
            "call_id": "c2",
            "status": "completed",
            "action": {
                "type": "exec",
                "command": ["ls"],
                "env": {},
                "working_directory": "/tmp",
                "timeout_ms": 5,
            },
        },
        {"type": "local_shell_call_output", "id": "c2", "output": "a b"},
        {
            "type": "tool_search_call",
            "call_id": "c3",
            "execution": "client",
            "arguments": {"query": "orders"},
            "status": "completed",
        },
        {"type": "tool_search_output", "call_id": "c3", "execution": "client", "tools": []},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
    )
    calls = [each.tool_calls[0] for each in found if each.tool_calls]
    assert calls == [
        PastToolCall("apply_patch", {"input": "*** Begin Patch"}, "c1"),
        PastToolCall("local_shell", {"command": ["ls"], "workdir": "/tmp", "timeout_ms": 5}, "c2"),
        PastToolCall("tool_search", {"query": "orders"}, "c3"),
    ]
    tools = [(each.tool_name, each.text) for each in found if each.role == "tool"]
    assert tools == [("apply_patch", "Done"), ("local_shell", "a b"), ("tool_search", '{"tools":[]}')]
    assert len(found) == 7


async def test_tools_that_were_found_can_be_called() -> None:
    """Ollama's model reads of them and cannot call them."""
    found = {
        "type": "namespace",
        "name": "orders",
        "description": "Orders.",
        "tools": [{"type": "function", "name": "lookup_order", "description": "Find one."}],
    }
    search = {"type": "tool_search", "execution": "client", "description": "Find tools."}
    items = [
        USER,
        {"type": "tool_search_call", "call_id": "c", "execution": "client", "arguments": '{"query": "o"}'},
        {
            "type": "tool_search_output",
            "call_id": "c",
            "execution": "client",
            "status": "completed",
            "tools": [found],
        },
        {
            "type": "additional_tools",
            "role": "developer",
            "tools": [{"type": "function", "name": "later"}],
        },
    ]
    async with site() as made:
        await made.respond(input=items, tools=[search])
        names = [tool["function"]["name"] for tool in made.chat.tools]
        told = made.chat.messages[-1].text
    assert names == ["tool_search", "orders.lookup_order", "later"]
    assert json.loads(told) == {"tools": [{"name": "orders.lookup_order", "description": "Find one."}]}


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([{"type": "X"}], 'input[0]: unknown input item type: "X"'),
        ([{"content": "a"}], "input[0]: input item missing required 'type' field"),
        ([None], "input[0]: input item missing required 'type' field"),
        (
            [USER, {"type": "item_reference", "id": "msg_1"}],
            "input[1]: item_reference is not supported, send the item itself: this server stores no "
            "responses",
        ),
        (
            [{"role": "user", "content": 1}],
            "input[0]: content must be a string or array: json: cannot unmarshal number into Go value of "
            "type []json.RawMessage",
        ),
        (
            [{"role": "user", "content": [{"type": "input_audio"}]}],
            'input[0]: content[0]: unknown content type: "input_audio"',
        ),
        (
            [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}],
            "input[0]: content[0]: file inputs are not currently supported",
        ),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a/b.png"}]}],
            "image URLs are not currently supported, please use base64 encoded data instead",
        ),
        (
            [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}],
            "input[0]: content[0]: invalid image input",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "input_image", "image_url": "data:image/gif;base64,AA=="}],
                }
            ],
            "input[0]: content[0]: invalid image input",
        ),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,A"}]}],
            "input[0]: content[0]: invalid image input",
        ),
        ([call("f", "c", "[]")], "input[0]: invalid function call arguments: they must be an object"),
        (
            [call("f", "c", "{")],
            "input[0]: invalid function call arguments: unexpected EOF",
        ),
        (
            [{**call("f", "c"), "call_id": 5}],
            "input[0]: json: cannot unmarshal number into Go struct field ResponsesInputItem.call_id of type "
            "string",
        ),
        (
            [answer("c", 5)],
            "input[0]: output must be a string or array: json: cannot unmarshal number into Go value of type "
            "[]json.RawMessage",
        ),
        ([{"type": "local_shell_call", "call_id": "c"}], "input[0]: a local_shell_call needs an action"),
    ],
    ids=str,
)
async def test_items_that_are_refused(items: list[Any], text: str) -> None:
    async with site() as made:
        assert await made.refused(input=items) == (400, text)


async def test_the_empty_type_of_a_data_url() -> None:
    url = f"data:;base64,{base64.b64encode(PICTURE).decode()}"
    [found] = await messages({"role": "user", "content": [{"type": "input_image", "image_url": url}]})
    assert found.images == (PICTURE,)


DEEP: Any = json.loads('{"a":' * 300 + "1" + "}" * 300)
TOOL = {"type": "function", "name": "f"}


@pytest.mark.parametrize(
    ("limits", "body", "text"),
    [
        ({"messages": 2}, {"input": [USER] * 3}, "input: at most 2, this request has 3"),
        ({"tools": 1}, {"tools": [TOOL, TOOL]}, "tools: at most 1, this request has 2"),
        (
            {"tools": 1},
            {"tools": [{"type": "namespace", "name": "n", "tools": [TOOL, TOOL]}]},
            "tools: at most 1, this request has 2",
        ),
        (
            {"tools": 1},
            {"input": [{"type": "additional_tools", "tools": [TOOL]}], "tools": [TOOL]},
            "tools: at most 1, this request has 2",
        ),
        (
            {"tool_bytes": 20},
            {"tools": [TOOL]},
            "tools: at most 20 bytes of JSON, this request has 32",
        ),
        (
            {"schema_bytes": 10},
            {"text": {"format": {"type": "text"}}},
            "text.format: at most 10 bytes of JSON, this request has 26",
        ),
        (
            {"images": 1},
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": DATA_URL}] * 2}]},
            "images: at most 1, this request has 2",
        ),
        (
            {"tool_calls": 1},
            {"input": [call("f", "a"), {"type": "custom_tool_call", "call_id": "b"}]},
            "tool calls: at most 1, this request has 2",
        ),
        (
            {"text_chars": 10},
            {"input": "a", "metadata": {"a": "x" * 11}},
            "text: at most 10 characters, this request has 13",
        ),
        (
            {"text_chars": 10},
            {"input": "", "instructions": "x" * 11},
            "text: at most 10 characters, this request has 12",
        ),
        ({}, {"tools": [DEEP]}, "tools: at most 200 levels of nesting, this request has more"),
        ({}, {"metadata": DEEP}, "metadata: at most 200 levels of nesting, this request has more"),
        (
            {},
            {"input": [call("f", "c", json.dumps(DEEP))]},
            "input[0]: arguments: at most 200 levels of nesting, this request has more",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_limits(limits: dict[str, int], body: dict[str, Any], text: str) -> None:
    async with site(limits=limits) as made:
        assert await made.refused(**body) == (400, text)


async def test_pictures_do_not_count_as_body() -> None:
    content = [{"type": "input_image", "image_url": DATA_URL}]
    async with site(limits={"body_bytes": 180}) as made:
        await made.respond(input=[{"role": "user", "content": content}])
        status, _ = await made.refused(
            input=[{"role": "user", "content": [*content, {"type": "input_text"}] * 4}]
        )
    assert status == 400
