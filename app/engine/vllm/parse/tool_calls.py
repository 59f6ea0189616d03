"""Where calls begin and end in a reply: what vLLM's tool parsers know of it and do not tell."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.parser import Parser
from vllm.parser.engine.events import EventType, SemanticEvent
from vllm.parser.engine.parser_engine_config import ParserState

from app.decode.calls.base import Schema
from app.decode.reply import ParsedCall

_MINIMAX = "]<]minimax[>["
_CALL_MARKS: dict[str, tuple[str, ...]] = {
    "functiongemma": ("<start_function_call>", "<end_function_call>"),
    "gemma4": ("<|tool_call>", "<tool_call|>"),
    "minimax_m3": (f"{_MINIMAX}<invoke name=", f"{_MINIMAX}</invoke>"),
    "k2_horizon": ("<ifm|tool_call>", "</ifm|tool_call>"),
    "muse_glimmer": ("<atem:invoke ", "</atem:invoke>"),
    "plamo3": ("<|plamo:begin_tool_request:plamo|>", "<|plamo:end_tool_request:plamo|>"),
}
"""Marks that stand once in each call. More or fewer of them: an argument holds one and is cut there."""

_STRING_MARKS = {"functiongemma": "<escape>", "gemma4": '<|"|>'}
"""What stands at both ends of a string, unescaped within."""

_VALUE_ENDS = {"k2_horizon": "</ifm|arg_value>", "muse_glimmer": "</atem:parameter>"}
"""What stands once behind each argument."""


_UNESCAPED = frozenset(_CALL_MARKS) - {"plamo3"}
"""Formats in which a string's marks may be another argument's."""


def has_begun(parser: Parser) -> bool:
    """Whether a parser that follows a grammar has read the beginning of a call."""
    machine = _machine(parser)
    return machine is not None and machine.tool_index >= 0


def fit_marks(tool_parser: str | None, text: str, calls: Sequence[ParsedCall]) -> bool:
    """Whether `text` has the format's marks as often as `calls` have; else an argument may have been cut."""
    name = tool_parser or ""
    arguments = [call.arguments for call in calls]
    strings, members = _counted(arguments)
    mark, end = _STRING_MARKS.get(name), _VALUE_ENDS.get(name)
    # MiniMax M3 has a mark at either end of each call, element and wrapper.
    pairs = members + text.count(f"{_MINIMAX}<tool_call>")
    return (
        all(text.count(each) == len(calls) for each in _CALL_MARKS.get(name, ()))
        and (mark is None or text.count(mark) == 2 * strings)
        and (end is None or text.count(end) == sum(map(len, arguments)))
        and (name != "minimax_m3" or text.count(_MINIMAX) == 2 * pairs)
    )


def fit_schemas(tool_parser: str | None, calls: Sequence[ParsedCall], tools: Mapping[str, Schema]) -> bool:
    """Whether arguments are ones that the tool has, where a string may have been read as more of them."""
    if tool_parser not in _UNESCAPED:
        return True
    return all(_fits(call.arguments, (tools.get(call.name) or {}).get("properties")) for call in calls)


def _fits(arguments: Mapping[str, Any], properties: Any) -> bool:
    if not isinstance(properties, Mapping) or not properties:
        return True
    return all(
        key in properties
        and not (isinstance(value, dict | list) and (properties[key] or {}).get("type") == "string")
        for key, value in arguments.items()
    )


def _counted(value: Any) -> tuple[int, int]:
    """How many strings `value` holds, and how many members of objects and arrays."""
    strings, members, waiting = 0, 0, [value]
    while waiting:
        match waiting.pop():
            case str():
                strings += 1
            case dict() as items:
                waiting += items.values()
                members += len(items)
            case list() as items:
                waiting += items
                members += len(items)
            case _:
                pass
    return strings, members


def are_whole(parser: Parser, text: str) -> bool:
    """Whether every call that `text` begins is ended in it, as far as the format has an ending.

    A grammar-driven parser makes a call of whatever there is, arguments lost; the others want it whole.
    """
    machine = _machine(parser)
    if machine is None or not _has_endings(machine.config):
        return True
    events = [event.type for event in _read(machine, text)]
    return events.count(EventType.TOOL_CALL_START) == events.count(EventType.TOOL_CALL_END)


def text_around(parser: Parser, text: str, found: str) -> str:
    """The text outside the calls in `text`. `found` is vLLM's answer, which ends at the first call."""
    machine = _machine(parser)
    if machine is None:
        return found
    return "".join(event.value for event in _read(machine, text) if event.type == EventType.TEXT_CHUNK)


def _read(machine: Any, text: str) -> list[SemanticEvent]:
    machine.reset(initial_state=ParserState.CONTENT)
    return machine.feed(text, [])


def _machine(parser: Parser) -> Any:
    return machine_of(parser.tool_parser)


def machine_of(part: Any) -> Any:
    """The state machine of a parser, of calls or of reasoning, that is driven by a grammar."""
    return getattr(getattr(part, "_parser_engine", None), "_engine", None)


def _has_endings(config: Any) -> bool:
    """Whether something ends a call; in some formats only the next call or the reply's end does."""
    return config.tool_call_body_array or any(
        EventType.TOOL_CALL_END in each.events and EventType.TOOL_CALL_START not in each.events
        for each in config.transitions.values()
    )
