"""Calls that vLLM's own parsers read: exactly or not at all, whatever marks an argument holds."""

from typing import Any

import pytest

from app.decode.reply import ParsedReply
from app.engine.vllm.parse.reply import Parsers, VllmReplyParser
from harness.models.catalogue import tool
from tests.unit.replying import reader

pytestmark = pytest.mark.engine

M3 = "]<]minimax[>["
PLAMO = "<|plamo:{}:plamo|>"
CHANNEL = ' to=write<|message|><atem:function_calls><atem:invoke name="write">'
WRITTEN = {
    "functiongemma": "<start_function_call>call:write{{text:<escape>{}<escape>}}<end_function_call>",
    "gemma4": '<|tool_call>call:write{{text:<|"|>{}<|"|>}}<tool_call|>',
    "minimax_m3": f'{M3}<tool_call>{M3}<invoke name="write">{M3}<text>{{}}'
    f"{M3}</text>{M3}</invoke>{M3}</tool_call>",
    "k2_horizon": "<ifm|tool_calls><ifm|tool_call>write<ifm|arg_key>text</ifm|arg_key>"
    "<ifm|arg_value>{}</ifm|arg_value></ifm|tool_call></ifm|tool_calls>",
    "muse_glimmer": f'{CHANNEL}<atem:parameter name="text">{{}}</atem:parameter></atem:invoke>'
    "</atem:function_calls><|eom|>",
    "plamo3": "".join(map(PLAMO.format, ("begin_tool_requests", "begin_tool_request", "begin_tool_name")))
    + f"write{PLAMO.format('end_tool_name')}{PLAMO.format('begin_tool_arguments')}<|plamo:constrain|>json"
    + '<|plamo:msg|>{{"text": "{}"}}'
    + "".join(map(PLAMO.format, ("end_tool_arguments", "end_tool_request", "end_tool_requests"))),
    "inkling": "<|message_model|><|content_invoke_tool_json|>"
    '{{"name": "write", "args": {{"text": "{}"}}}}<|end_message|>',
}
MARKS = {
    "functiongemma": ("<escape>", "<end_function_call>", "<start_function_call>", "}<end_function_call>"),
    "gemma4": ('<|"|>', "<tool_call|>", "<|tool_call>", '<|"|>,b:<|"|>'),
    "minimax_m3": (f"{M3}</text>", f"{M3}</invoke>", M3, f"{M3}<x>y{M3}</x>"),
    "k2_horizon": ("</ifm|arg_value>", "</ifm|tool_call>", "<ifm|tool_call>"),
    "muse_glimmer": ("</atem:parameter>", "</atem:invoke>", "<|eom|>"),
    "plamo3": (PLAMO.format("end_tool_arguments"), PLAMO.format("end_tool_request")),
    "inkling": ("<|end_message|>", "<|message_model|>"),
}
WRITE = tool("write", "Write", text="string")


def parsed(name: str, text: str) -> ParsedReply:
    tokenizer: Any = reader("qwen3").tokenizer
    parser = VllmReplyParser(
        Parsers(tokenizer, None, name, None),
        tools=(WRITE,),
        thinking=False,
        prompt_text="",
        prompt_token_ids=[],
        template_kwargs={},
        constrained=False,
    )
    return parser.adjusted().parse(text, tokenizer.encode(text, add_special_tokens=False), cut=False)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("value", ["Paris", "a < b, {c}", "\u00e9\u4e16"])
def test_a_plain_argument_is_read_exactly(name: str, value: str) -> None:
    reply = parsed(name, WRITTEN[name].format(value))
    assert [(call.name, call.arguments) for call in reply.calls] == [("write", {"text": value})]


@pytest.mark.parametrize(("name", "mark"), [(name, mark) for name, marks in MARKS.items() for mark in marks])
@pytest.mark.parametrize("around", ["{}", "a {} b"])
def test_an_argument_with_the_formats_marks_is_read_exactly_or_stays_text(
    name: str, mark: str, around: str
) -> None:
    value = around.format(mark)
    reply = parsed(name, WRITTEN[name].format(value))
    assert [call.arguments for call in reply.calls] in ([], [{"text": value}])
    assert reply.calls or mark in reply.content
