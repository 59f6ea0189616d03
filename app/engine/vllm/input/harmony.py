"""gpt-oss: a conversation as the tokens of its own format, and what a constraint binds within that.

Messages are written in channels: `analysis` for reasoning, `commentary` for calls, `final` for the answer.
The prompt is made as vLLM's own server makes it, whatever template a repository has.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from openai_harmony import HarmonyError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionToolsParam
from vllm.entrypoints.openai.parser.harmony_utils import (
    build_harmony_preamble,
    extract_instructions_from_messages,
    get_encoding,
    parse_chat_input_to_harmony_message,
    render_for_completion,
)

from app.core.errors import InvalidRequest
from app.core.request import ChatPrompt, Think
from app.core.thinking import EFFORT
from app.engine.vllm.input.messages import to_conversation
from app.engine.vllm.input.results import paired
from app.engine.vllm.process.failures import first_line

EFFORTS = ("low", "medium", "high")
_NO_EFFORT = "low"
"""For `think: false`: the format has no level without reasoning."""

_TURN = "<|start|>assistant"
_FINAL = "<|channel|>final<|message|>"
_START = re.compile(r"^start:", re.MULTILINE)
_IN_CHANNELS = """start: harmony_analysis? harmony_final
harmony_analysis: <|channel|> "analysis" <|message|> HARMONY_TEXT <|end|> <|start|> "assistant"
harmony_final: <|channel|> "final" harmony_type? <|message|> harmony_answer
harmony_type: " json" | " "? <|constrain|> "json"
HARMONY_TEXT: /(?s:.*)/
harmony_answer:"""


def is_harmony(tool_parser: str | None, reasoning_parser: str | None) -> bool:
    """Whether replies come in channels, by the parsers that the model's files gave it."""
    return tool_parser == "openai" or reasoning_parser == "openai_gptoss"


def effort_of(think: Think, variables: Mapping[str, Any]) -> str:
    """The level of reasoning: the client's, or else that of its variable, or `medium`.

    Raises:
        InvalidRequest: for variables that the format has no place for.
    """
    if other := sorted(set(variables) - {EFFORT}):
        raise InvalidRequest(f"chat_template_kwargs: the model's format takes no {', '.join(other)}")
    if think is False:
        return _NO_EFFORT
    for level in (think, variables.get(EFFORT)):
        if level in EFFORTS:
            return str(level)
    return "medium"


def harmony_tokens(chat: ChatPrompt, effort: str, *, continue_last: bool) -> list[int]:
    """The prompt, up to where the assistant's turn begins, or within its last message.

    Reasoning is kept between the calls of a turn, and dropped before the last answer.

    Raises:
        InvalidRequest: for tools that the format cannot describe.
    """
    messages, last = list(chat.messages), ""
    if continue_last:
        last = messages.pop().text
    instructions, rest = extract_instructions_from_messages(_openai(to_conversation(messages)))
    try:
        harmony: list[Any] = build_harmony_preamble(
            instructions=instructions,
            tools=[_described(tool) for tool in chat.tools] or None,
            reasoning_effort=effort,
            with_custom_tools=bool(chat.tools),
        )
        for message in rest:
            names = {message.get("tool_call_id"): message.get("name")}
            harmony += parse_chat_input_to_harmony_message(message, names)
        token_ids = render_for_completion(harmony)
    except (HarmonyError, ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"the messages cannot be written for this model: {first_line(error)}") from error
    if continue_last:
        encoding = get_encoding()
        token_ids += encoding.encode(_FINAL, allowed_special="all")
        token_ids += encoding.encode(last, disallowed_special=())
    return token_ids


def opened(prompt_text: str) -> str | None:
    """What the prompt holds of the assistant's turn already; None where there is no such turn."""
    _, begun, rest = prompt_text.rpartition(_TURN)
    return rest if begun else None


def in_channels(grammar: str) -> str:
    """A constraint of the answer as one of the whole reply: reasoning is free, the last message is bound."""
    return _START.sub(lambda _: _IN_CHANNELS, grammar, count=1)


def _openai(conversation: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """With arguments as text, and each result under the name of the tool that gave it."""
    messages = paired(conversation)
    for message in messages:
        for call in message.get("tool_calls") or ():
            call["function"]["arguments"] = orjson.dumps(call["function"]["arguments"]).decode()
    return messages


def _described(tool: Mapping[str, Any]) -> ChatCompletionToolsParam:
    function = dict(tool.get("function") or {})
    function["name"] = function.get("name") or ""
    return ChatCompletionToolsParam.model_validate({"type": "function", "function": function})
