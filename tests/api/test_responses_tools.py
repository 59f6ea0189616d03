"""Tools of every kind, and how their calls come back (docs/reference 14.3)."""

from collections.abc import Mapping
from typing import Any

import pytest

from app.core.events import ToolCall
from app.core.request import Json
from app.engine.fake.script import Reply
from tests.api.responding import USER, WEATHER, replying, site

PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edit files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: PATCH"},
}
REPL = {
    "type": "namespace",
    "name": "mcp__repl",
    "description": "A console.",
    "tools": [
        {"type": "function", "name": "js", "description": "Run it.", "strict": False, "defer_loading": True},
        {"type": "custom", "name": "raw"},
    ],
}
SEARCH = {
    "type": "tool_search",
    "execution": "client",
    "description": "Find tools.",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
}
SHELL = {"type": "local_shell"}


async def offered(*tools: Mapping[str, Any], **body: Any) -> list[Mapping[str, Json]]:
    async with site() as made:
        await made.respond(input=[USER], tools=list(tools), **body)
        return [tool["function"] for tool in made.chat.tools]


async def test_a_function() -> None:
    [function] = await offered(WEATHER)
    assert function == {key: WEATHER[key] for key in ("name", "description", "parameters")}


async def test_what_the_model_is_offered() -> None:
    functions = {function["name"]: function for function in await offered(PATCH, REPL, SEARCH, SHELL)}
    assert list(functions) == ["apply_patch", "mcp__repl.js", "mcp__repl.raw", "tool_search", "local_shell"]
    patch = functions["apply_patch"]
    assert patch["description"] == "Edit files.\n\nThe input must match this lark grammar:\nstart: PATCH"
    assert patch["parameters"]["properties"] == {"input": {"type": "string"}}
    assert patch["parameters"]["required"] == ["input"]
    assert functions["mcp__repl.js"]["description"] == "A console.\n\nRun it."
    assert functions["tool_search"]["description"] == "Find tools."
    assert functions["local_shell"]["parameters"]["required"] == ["command"]


CALLS: Mapping[str, tuple[ToolCall, dict[str, Any], list[str]]] = {
    "function": (
        ToolCall(0, "c", "get_weather", {"z": 1, "a": "<"}),
        {
            "type": "function_call",
            "name": "get_weather",
            "arguments": '{"z":1,"a":"\\u003c"}',
            "status": "completed",
        },
        ["function_call_arguments.delta", "function_call_arguments.done"],
    ),
    "of a namespace": (
        ToolCall(0, "c", "mcp__repl.js", {}),
        {
            "type": "function_call",
            "name": "js",
            "namespace": "mcp__repl",
            "arguments": "{}",
            "status": "completed",
        },
        ["function_call_arguments.delta", "function_call_arguments.done"],
    ),
    "whose namespace the model left out": (
        ToolCall(0, "c", "js", {}),
        {
            "type": "function_call",
            "name": "js",
            "namespace": "mcp__repl",
            "arguments": "{}",
            "status": "completed",
        },
        ["function_call_arguments.delta", "function_call_arguments.done"],
    ),
    "unknown": (
        ToolCall(0, "c", "nosuch", {}),
        {"type": "function_call", "name": "nosuch", "arguments": "{}", "status": "completed"},
        ["function_call_arguments.delta", "function_call_arguments.done"],
    ),
    "free-form": (
        ToolCall(0, "c", "apply_patch", {"input": "*** Begin"}),
        {"type": "custom_tool_call", "name": "apply_patch", "input": "*** Begin", "status": "completed"},
        ["custom_tool_call_input.delta", "custom_tool_call_input.done"],
    ),
    "free-form with other arguments": (
        ToolCall(0, "c", "apply_patch", {"patch": "x"}),
        {"type": "custom_tool_call", "name": "apply_patch", "input": '{"patch":"x"}', "status": "completed"},
        ["custom_tool_call_input.delta", "custom_tool_call_input.done"],
    ),
    "free-form of a namespace": (
        ToolCall(0, "c", "mcp__repl.raw", {"input": "1"}),
        {
            "type": "custom_tool_call",
            "name": "raw",
            "namespace": "mcp__repl",
            "input": "1",
            "status": "completed",
        },
        ["custom_tool_call_input.delta", "custom_tool_call_input.done"],
    ),
    "search": (
        ToolCall(0, "c", "tool_search", {"query": "orders", "a": 1}),
        {
            "type": "tool_search_call",
            "execution": "client",
            "status": "completed",
            "arguments": {"query": "orders", "a": 1},
        },
        [],
    ),
    "shell": (
        ToolCall(0, "c", "local_shell", {"command": ["ls"], "workdir": "/", "timeout_ms": 9}),
        {
            "type": "local_shell_call",
            "status": "completed",
            "action": {
                "type": "exec",
                "command": ["ls"],
                "env": {},
                "timeout_ms": 9,
                "user": None,
                "working_directory": "/",
            },
        },
        [],
    ),
}


@pytest.mark.parametrize("name", CALLS)
async def test_how_a_call_comes_back(name: str) -> None:
    call, expected, between = CALLS[name]
    tools = [WEATHER, PATCH, REPL, SEARCH, SHELL]
    async with site(replying(call)) as made:
        document = await made.respond(input=[USER], tools=tools)
        events = await made.events(input=[USER], tools=tools)
    [item] = document["output"]
    assert item.pop("id").partition("_")[0] in ("fc", "ctc", "tsc", "lsh")
    assert item == {**expected, "call_id": "c"}
    kinds = [event["type"].removeprefix("response.") for event in events[2:-1]]
    assert kinds == ["output_item.added", *between, "output_item.done"]
    added, done = events[2]["item"], events[-2]["item"]
    assert {**done, "id": ""} == {**expected, "call_id": "c", "id": ""}
    assert added["status"] == "in_progress"
    assert (added["id"], added["call_id"], added["type"]) == (done["id"], "c", done["type"])
    for event in events[3:-2]:
        value = event.get("delta", event.get("arguments", event.get("input")))
        assert value == expected.get("arguments", expected.get("input"))
    if "arguments" in added and expected["type"] == "function_call":
        assert added["arguments"] == ""


async def test_a_choice_is_enforced() -> None:
    """What must be called is what the answer is kept to; what may not be called is not offered."""
    forced = Reply(('[{"name":"get_weather",', '"arguments":{"city":"Paris"}}]'))
    async with site(forced) as made:
        document = await made.respond(input=[USER], tools=[WEATHER], tool_choice="required")
        constraint = made.engine.asked[-1].run.constraint
        streamed = await made.events(input=[USER], tools=[WEATHER], tool_choice="required")
        await made.respond(input=[USER], tools=[WEATHER], tool_choice="none")
        assert made.chat.tools == ()
    assert constraint is not None
    [item] = document["output"]
    assert (item["name"], item["arguments"]) == ("get_weather", '{"city":"Paris"}')
    assert document["tool_choice"] == "required"
    assert [each["type"] for each in streamed[-1]["response"]["output"]] == ["function_call"]


async def test_one_call_at_most() -> None:
    calls = [ToolCall(number, str(number), "get_weather", {}) for number in range(2)]
    async with site(replying(*calls)) as made:
        two = await made.respond(input=[USER], tools=[WEATHER])
        one = await made.respond(input=[USER], tools=[WEATHER], parallel_tool_calls=False)
    assert (len(two["output"]), len(one["output"])) == (2, 1)
    assert (two["parallel_tool_calls"], one["parallel_tool_calls"]) == (True, False)


async def test_a_call_without_an_id_gets_one() -> None:
    async with site(replying(ToolCall(0, "", "f", {}))) as made:
        document = await made.respond(input=[USER])
    assert document["output"][0]["call_id"].startswith("call_")


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        (
            [{"type": "web_search"}],
            "this server has not turned on the built-in tool 'web_search' (CARAVAN_TOOLS=net); leave it out",
        ),
        (
            [{"type": "web_search_preview_2025_03_11"}],
            "this server has not turned on the built-in tool 'web_search' (CARAVAN_TOOLS=net); leave it out",
        ),
        ([{"type": "web_search", "filters": {"a": 1}}], "tools[0]: a web search takes no filters here"),
        *(
            ([{"type": kind}], f'tools[0]: tools of type "{kind}" are not supported by this server')
            for kind in ("file_search", "computer_use_preview", "code_interpreter", "mcp", "image_generation")
        ),
        ([WEATHER, {"type": "x"}], 'tools[1]: unknown tool type: "x"'),
        ([{"type": "function"}], "tools[0]: a function tool needs a name"),
        ([{"type": "namespace", "tools": []}], "tools[0]: a namespace needs a name"),
        (
            [{"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}],
            'tools[0]: tools[0]: tools of type "mcp" are not supported by this server',
        ),
        (
            [{"type": "namespace", "name": "n", "tools": [{"type": "namespace", "name": "o"}]}],
            'tools[0]: tools[0]: unknown tool type: "namespace"',
        ),
        (
            [
                {"type": "function", "name": "a.b"},
                {"type": "namespace", "name": "a", "tools": [{"type": "custom", "name": "b"}]},
            ],
            'tools[1]: tools[0]: two different tools are named "a.b"',
        ),
        (
            [{"type": "tool_search"}],
            'tools[0]: tool_search is executed by the client alone: its "execution" must be "client"',
        ),
        (
            [{"type": "custom", "name": "a", "format": {"type": "grammar", "syntax": "x", "definition": ""}}],
            'tools[0]: a grammar needs a "syntax" (lark or regex) and a "definition"',
        ),
        (
            [{"type": "function", "name": 1}],
            "tools[0]: json: cannot unmarshal number into Go struct field ResponsesTool.name of type string",
        ),
        (
            {"a": 1},
            "json: cannot unmarshal object into Go struct field ResponsesRequest.tools of type "
            "[]openai.ResponsesTool",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_tools_that_are_refused(tools: Any, text: str) -> None:
    async with site() as made:
        assert await made.refused(input=[USER], tools=tools) == (400, text)


async def test_a_tool_that_is_declared_again_replaces_the_one_before() -> None:
    [function] = await offered(WEATHER, {**WEATHER, "description": "new"})
    assert function["description"] == "new"


async def test_a_model_that_calls_no_tools() -> None:
    async with site(None, "completion") as made:
        status, text = await made.refused(input=[USER], tools=[WEATHER])
    assert (status, text.endswith("does not support tools")) == (400, True)
