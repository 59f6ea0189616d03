"""What the body of a request for a response comes to, where no answer shows it."""

import json
from typing import Any

import pytest

from app.api.openai.responses.codec import to_response
from app.core.errors import InvalidRequest
from app.core.request import ToolChoice

F, G = ({"type": "function", "name": name} for name in "fg")
TOOLS = [
    F,
    G,
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "h"}]},
    {"type": "local_shell"},
]


def read(**body: Any) -> Any:
    return to_response(json.dumps({"model": "m", "input": "Hi", **body}).encode(), 0).generation


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "f"}, ToolChoice("required", "f")),
        ({"type": "custom", "name": "patch"}, ToolChoice("required", "patch")),
        ({"type": "function", "name": "ns.h"}, ToolChoice("required", "ns.h")),
        ({"type": "function", "name": "h", "namespace": "ns"}, ToolChoice("required", "ns.h")),
        ({"type": "function", "name": "h"}, ToolChoice("required", "ns.h")),
        ({"type": "local_shell"}, ToolChoice("required", "local_shell")),
    ],
    ids=str,
)
def test_tool_choice(choice: Any, expected: ToolChoice) -> None:
    asked = read(tools=TOOLS, tool_choice=choice)
    assert asked.tool_choice == expected
    assert len(asked.prompt.tools) == len(TOOLS)


@pytest.mark.parametrize(("mode", "expected"), [("auto", ToolChoice()), ("required", ToolChoice("required"))])
def test_allowed_tools_are_all_that_there_are(mode: str, expected: ToolChoice) -> None:
    allowed = [{"type": "function", "name": "g"}, {"type": "custom", "name": "patch"}]
    asked = read(tools=TOOLS, tool_choice={"type": "allowed_tools", "mode": mode, "tools": allowed})
    assert asked.tool_choice == expected
    assert [tool["function"]["name"] for tool in asked.prompt.tools] == ["g", "patch"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"tool_choice": "sometimes"}, 'invalid tool_choice: "sometimes"'),
        ({"tool_choice": 1}, "tool_choice must be a string or an object"),
        (
            {"tool_choice": {"type": "function", "name": "x"}, "tools": [F]},
            'tool_choice: there is no tool named "x" in tools',
        ),
        (
            {"tool_choice": {"type": "web_search"}, "tools": [F]},
            'tool_choice: tools of type "web_search" cannot be chosen',
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "x"}],
                }
            },
            'tool_choice: there is no tool named "x" in tools',
        ),
    ],
    ids=str,
)
def test_choices_that_are_refused(body: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest) as failure:
        read(**body)
    assert str(failure.value) == text


def test_parallel_tool_calls() -> None:
    assert read().parallel_tool_calls
    assert not read(parallel_tool_calls=False).parallel_tool_calls


def test_truncation() -> None:
    assert (read().truncate, read(truncation="auto").truncate) == (True, True)
    asked = read(truncation="disabled")
    assert (asked.truncate, asked.shift) == (False, False)


def test_the_plainer_form_of_a_conversation() -> None:
    asked = to_response(json.dumps({"model": "m", "input": [USER, LATE, USER, SAID, USER]}).encode(), 0)
    assert asked.plainer is not None
    texts = [(each.role, each.text) for each in asked.plainer.prompt.messages]  # type: ignore[union-attr]
    assert texts == [("user", "Hi\n\nNew rules.\n\nHi"), ("assistant", "Hello."), ("user", "Hi")]
    assert asked.thinking("low").plainer.think == "low"  # type: ignore[union-attr]
    assert to_response(json.dumps({"model": "m", "input": [LATE, USER, SAID]}).encode(), 0).plainer is None


USER = {"role": "user", "content": "Hi"}
LATE = {"role": "developer", "content": "New rules."}
SAID = {"role": "assistant", "content": "Hello."}


def test_keys_are_read_in_any_case() -> None:
    body = b'{"MODEL": "m", "Input": [{"TYPE": "message", "Role": "user", "CONTENT": "Hi"}]} trailing'
    assert to_response(body, 0).generation.prompt.messages[0].text == "Hi"  # type: ignore[union-attr]


def test_many_calls_take_time_by_their_number() -> None:
    """Twenty thousand calls of one message are put together in one pass."""
    calls = [
        {"type": "function_call", "call_id": str(at), "name": "f", "arguments": "{}"} for at in range(5000)
    ]
    asked = read(input=calls)
    assert len(asked.prompt.messages[0].tool_calls) == 5000
