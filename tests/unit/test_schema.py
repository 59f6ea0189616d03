"""Requests field by field: what is taken, and Go's words for what does not fit."""

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.ollama import schema
from app.core.errors import InvalidRequest
from app.core.request import Message, PastToolCall
from app.golang.types import Kind, parse

GENERATE, CHAT = schema.GENERATE, schema.CHAT
KINDS: dict[str, Kind[Any]] = {
    "GenerateRequest": schema.GENERATE,
    "ChatRequest": schema.CHAT,
    "EmbedRequest": schema.EMBED,
    "EmbeddingRequest": schema.EMBEDDING,
    "ShowRequest": schema.SHOW,
}


def refused(text: str) -> Any:
    return pytest.raises(InvalidRequest, match=f"^{re.escape(text)}$")


def tool(parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "description": "d", "parameters": parameters}}


def prop(value: Any) -> dict[str, Any]:
    return {"tools": [tool({"type": "object", "properties": {"p": value}})]}


def call(arguments: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
        ]
    }


@pytest.mark.point(37)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("value", "kind"), [([], "array"), ("x", "string"), (1, "number"), (1.5, "number"), (True, "bool")]
)
def test_a_body_that_is_no_object(name: str, value: Any, kind: str) -> None:
    with refused(f"json: cannot unmarshal {kind} into Go value of type api.{name}"):
        parse(KINDS[name], value)


@pytest.mark.point(41)
@pytest.mark.parametrize("name", KINDS)
def test_a_null_body_is_all_defaults(name: str) -> None:
    assert parse(KINDS[name], None) == parse(KINDS[name], {})
    assert parse(KINDS[name], None).model == ""


_PROPERTIES = "ToolFunctionParameters.tools.function.parameters.properties"

MISMATCHES: list[tuple[Kind[Any], Any, str]] = [
    (GENERATE, {"model": 1}, "number > GenerateRequest.model of type string"),
    (CHAT, {"model": 1}, "number > ChatRequest.model of type string"),
    (CHAT, {"MODEL": 1}, "number > ChatRequest.model of type string"),
    (GENERATE, {"stream": "yes"}, "string > GenerateRequest.stream of type bool"),
    (GENERATE, {"raw": 1}, "number > GenerateRequest.raw of type bool"),
    (
        GENERATE,
        {"top_logprobs": 1.5},
        "number 1.5 > GenerateRequest.top_logprobs of type int",
    ),
    (
        GENERATE,
        {"top_logprobs": 2**63},
        f"number {2**63} > GenerateRequest.top_logprobs of type int",
    ),
    (GENERATE, {"top_logprobs": True}, "bool > GenerateRequest.top_logprobs of type int"),
    (
        GENERATE,
        {"options": []},
        "array > GenerateRequest.options of type map[string]interface {}",
    ),
    (GENERATE, {"context": ["a"]}, "string > GenerateRequest.context of type int"),
    (GENERATE, {"context": "a"}, "string > GenerateRequest.context of type []int"),
    (GENERATE, {"images": "x"}, "string > GenerateRequest.images of type []api.ImageData"),
    (GENERATE, {"images": [5]}, "number > GenerateRequest.images of type api.ImageData"),
    (
        GENERATE,
        {"_debug_render_only": 1},
        "number > GenerateRequest._debug_render_only of type bool",
    ),
    (CHAT, {"messages": "x"}, "string > ChatRequest.messages of type []api.Message"),
    (CHAT, {"messages": ["x"]}, "string > ChatRequest.messages of type api.Alias"),
    (
        CHAT,
        {"messages": [{"role": 1}]},
        "number > ChatRequest.messages.role of type string",
    ),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        "array > ChatRequest.messages.content of type string",
    ),
    (
        CHAT,
        {"messages": [{"images": "x"}]},
        "string > ChatRequest.messages.images of type []api.ImageData",
    ),
    (
        CHAT,
        {"messages": [{"tool_calls": [{"function": {"name": 1}}]}]},
        "number > ChatRequest.messages.tool_calls.function.name of type string",
    ),
    (
        CHAT,
        {"messages": [{"tool_calls": [{"function": "f"}]}]},
        "string > ChatRequest.messages.tool_calls.function of type api.ToolCallFunction",
    ),
    (CHAT, {"tools": {}}, "object > ChatRequest.tools of type api.Tools"),
    (CHAT, {"tools": ["x"]}, "string > ChatRequest.tools of type api.Tool"),
    (CHAT, {"tools": [{"type": 1}]}, "number > Tool.tools.type of type string"),
    (
        CHAT,
        {"tools": [{"function": 1}]},
        "number > Tool.tools.function of type api.ToolFunction",
    ),
    (
        CHAT,
        {"tools": [tool("x")]},
        "string > ToolFunction.tools.function.parameters of type api.ToolFunctionParameters",
    ),
    (
        CHAT,
        {"tools": [tool({"required": "p"})]},
        "string > ToolFunctionParameters.tools.function.parameters.required of type []string",
    ),
    (CHAT, prop("x"), f"string > {_PROPERTIES} of type api.ToolProperty"),
    (CHAT, prop({"type": 5}), f"number > {_PROPERTIES}.type of type []string"),
    (CHAT, prop({"type": ["a", 5]}), f"number > {_PROPERTIES}.type of type string"),
    (CHAT, prop({"enum": "x"}), f"string > {_PROPERTIES}.enum of type []interface {{}}"),
    (
        CHAT,
        prop({"properties": {"q": {"description": 1}}}),
        f"number > {_PROPERTIES}.properties.description of type string",
    ),
    (CHAT, prop({"anyOf": [1]}), f"number > {_PROPERTIES}.anyOf of type api.ToolProperty"),
    (schema.EMBED, {"dimensions": "x"}, "string > EmbedRequest.dimensions of type int"),
    (schema.EMBEDDING, {"prompt": []}, "array > EmbeddingRequest.prompt of type string"),
    (schema.SHOW, {"verbose": "x"}, "string > ShowRequest.verbose of type bool"),
    (schema.SHOW, {"template": {}}, "object > ShowRequest.template of type string"),
]


@pytest.mark.point(38, 39, 42, 43, 143, 152)
@pytest.mark.parametrize(("kind", "value", "text"), MISMATCHES)
def test_a_value_of_the_wrong_type_is_named_as_go_names_it(kind: Kind[Any], value: Any, text: str) -> None:
    with refused(f"json: cannot unmarshal {text.replace(' > ', ' into Go struct field ')}"):
        parse(kind, value)


@pytest.mark.point(28)
def test_unknown_keys_are_ignored_at_every_level() -> None:
    known = {"model": "m", "messages": [{"role": "user"}], "tools": [tool({"type": "object"})]}
    more = json.loads(json.dumps(known))
    more |= {"tool_choice": 1, "suffix": 5}
    more["messages"][0]["nope"] = 1
    more["tools"][0]["function"]["strict"] = True
    assert parse(CHAT, more) == parse(CHAT, known)


@pytest.mark.point(29)
def test_keys_match_in_any_case_and_an_exact_one_wins() -> None:
    found = parse(GENERATE, {"MODEL": "plain", "Prompt": "hi", "STREAM": False, "Top_LogProbs": 3})
    assert (found.model, found.prompt, found.stream, found.top_logprobs) == ("plain", "hi", False, 3)
    for value in ({"model": "exact", "MODEL": "folded"}, {"MODEL": "folded", "model": "exact"}):
        assert parse(GENERATE, value).model == "exact"
    assert parse(CHAT, prop({"ANYOF": [{"TYPE": "string"}]})) == parse(
        CHAT, prop({"anyOf": [{"type": "string"}]})
    )


def test_null_is_the_same_as_absent() -> None:
    for name, fields in {
        "GenerateRequest": "model stream format keep_alive options think truncate shift _debug_render_only"
        " datai logprobs top_logprobs prompt suffix system template context raw images",
        "ChatRequest": "messages tools",
        "EmbedRequest": "input dimensions truncate",
        "EmbeddingRequest": "prompt keep_alive options",
        "ShowRequest": "name verbose system options",
    }.items():
        assert parse(KINDS[name], dict.fromkeys(fields.split())) == parse(KINDS[name], {})


def test_the_defaults_are_those_of_the_api() -> None:
    found = parse(GENERATE, {})
    assert (found.stream, found.truncate, found.shift, found.raw, found.logprobs) == (
        None,
        True,
        True,
        False,
        False,
    )
    assert (found.context, found.keep_alive, found.think, found.options) == (None, None, None, {})
    assert parse(GENERATE, {"context": []}).context == []
    assert parse(GENERATE, {"context": [1, None, 3]}).context == [1, 0, 3]


@pytest.mark.point(134, 135)
@pytest.mark.row("A3")
def test_a_message_is_taken_as_it_is_but_for_the_case_of_its_role() -> None:
    sent: list[Any] = [
        {"role": "USER", "content": "hi", "images": [base64.b64encode(b"png").decode(), None]},
        {"role": "Unheard-Of", "content": None},
        {"content": "x"},
        {"role": "tool", "content": "42", "tool_name": "f", "tool_call_id": "c1"},
        {"role": "assistant", "thinking": "hm", "tool_calls": [{"id": "c1", "type": "function"}]},
        None,
    ]
    assert parse(CHAT, {"messages": sent}).messages == [
        Message.of("user", "hi", images=(b"png", b"")),
        Message.of("unheard-of"),
        Message.of("", "x"),
        Message.of("tool", "42", tool_name="f", tool_call_id="c1"),
        Message.of("assistant", thinking="hm", tool_calls=(PastToolCall("", {}, "c1"),)),
        Message.of(""),
    ]


@pytest.mark.point(149)
@pytest.mark.parametrize("arguments", ['{"a":1}', "", 1, True, [{}]])
def test_arguments_of_a_past_call_must_be_an_object(arguments: Any) -> None:
    with refused("Value looks like object, but can't find closing '}' symbol"):
        parse(CHAT, call(arguments))


@pytest.mark.point(149)
def test_arguments_keep_their_order_and_may_be_null() -> None:
    (message,) = parse(CHAT, call({"b": 1, "a": {"d": [None], "c": 2}})).messages
    assert json.dumps(message.tool_calls[0].arguments) == '{"b": 1, "a": {"d": [null], "c": 2}}'
    (message,) = parse(CHAT, call(None)).messages
    assert message.tool_calls == (PastToolCall("f", {}),)


@pytest.mark.point(151, 152)
@pytest.mark.row("A6")
def test_only_the_keys_of_the_whitelist_survive_in_a_tool() -> None:
    parameters = {
        "additionalProperties": False,
        "properties": {
            "z": {"minimum": 1, "type": ["string", "null"], "description": "Z", "default": "q"},
            "a": {
                "type": ["array"],
                "items": {"type": "object", "minItems": 1},
                "enum": [1, None, "x"],
                "anyOf": [{"type": "integer", "format": "int32"}, {"const": 1}],
            },
            "n": {"type": "object", "properties": {"y": {"type": "string"}, "b": None}, "required": ["y"]},
            "e": {"type": [], "description": "", "enum": [], "required": [], "items": {}},
        },
        "required": ["z"],
        "$defs": {"D": {"any": ["thing"]}},
        "title": "T",
        "type": "object",
    }
    sent = tool(parameters) | {"strict": True}
    (found,) = parse(CHAT, {"tools": [sent]}).tools
    assert json.dumps(found) == json.dumps(
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "d",
                "parameters": {
                    "type": "object",
                    "$defs": {"D": {"any": ["thing"]}},
                    "required": ["z"],
                    "properties": {
                        "z": {"type": ["string", "null"], "description": "Z"},
                        "a": {
                            "anyOf": [{"type": "integer"}, {}],
                            "type": "array",
                            "items": {"type": "object", "minItems": 1},
                            "enum": [1, None, "x"],
                        },
                        "n": {
                            "type": "object",
                            "properties": {"y": {"type": "string"}, "b": {}},
                            "required": ["y"],
                        },
                        "e": {"items": {}},
                    },
                },
            },
        }
    )


@pytest.mark.parametrize(
    "sent", [{"function": {"name": "f"}}, tool(None), tool({}), {"type": "", "function": {}}, None]
)
def test_a_tool_without_parameters_takes_none(sent: Any) -> None:
    (found,) = parse(CHAT, {"tools": [sent]}).tools
    assert found["type"] == "function"
    assert found["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.point(123)
@pytest.mark.parametrize("text", ["bogus", "", "HIGH", 'a"\n'])
def test_any_name_may_be_a_level_of_thinking(text: str) -> None:
    for kind in (GENERATE, CHAT):
        assert parse(kind, {"think": text}).think == text


@pytest.mark.point(124)
@pytest.mark.parametrize("value", [1, 0, 1.5, [], {}, ["high"]])
def test_thinking_is_a_switch_or_a_level(value: Any) -> None:
    with refused("think must be a boolean or string"):
        parse(CHAT, {"think": value})
    for level in (True, False, "high", "medium", "low", "max"):
        assert parse(CHAT, {"think": level}).think == level


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    *(
        "model",
        "stream",
        "format",
        "keep_alive",
        "options",
        "think",
        "messages",
        "tools",
        "context",
        "images",
    ),
    *(
        "input",
        "dimensions",
        "prompt",
        "role",
        "content",
        "tool_calls",
        "function",
        "arguments",
        "parameters",
    ),
    *("properties", "type", "anyOf", "items", "enum", "required"),
]
BODIES = st.recursive(
    JSON,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
)


@settings(deadline=None)
@given(st.sampled_from(sorted(KINDS)), BODIES)
def test_any_value_is_a_request_or_refused(name: str, value: Any) -> None:
    def read() -> Any:
        try:
            return parse(KINDS[name], value)
        except InvalidRequest as error:
            return str(error)

    assert read() == read() != ""
