"""Where calls begin and end in a reply: what vLLM's tool parsers know of it and do not tell."""

import json
import re
from typing import Any

from vllm.parser import Parser
from vllm.parser.engine.events import EventType, SemanticEvent
from vllm.parser.engine.parser_engine_config import ParserState
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser
from vllm.tool_parsers.llama_tool_parser import Llama3JsonToolParser

_OBJECT_OPENS = re.compile(r'\{\s*(?:"|$)')


def has_begun(parser: Parser) -> bool:
    """Whether a parser that follows a grammar has read the beginning of a call."""
    machine = _machine(parser)
    return machine is not None and machine.tool_index >= 0


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
    if machine is not None:
        events = _read(machine, text)
        return "".join(event.value for event in events if event.type == EventType.TEXT_CHUNK)
    if isinstance(parser.tool_parser, Hermes2ProToolParser):
        return parser.tool_parser.tool_call_regex.sub("", text)
    if isinstance(parser.tool_parser, Llama3JsonToolParser):
        return _outside_json(text.replace(parser.tool_parser.bot_token, ""))
    return found


def writes_bare_json(parser: Parser) -> bool:
    """Whether calls are JSON without any marker, which vLLM's stream recognises at the very start only."""
    return isinstance(parser.tool_parser, Llama3JsonToolParser)


class BeforeBareJson:
    """Passes the text before the first object that may be a call.

    The first object decides, for vLLM too: when it is no call the whole reply is text.
    """

    def __init__(self) -> None:
        self._held = ""
        self._is_text = False

    def push(self, text: str) -> str:
        if self._is_text:
            return text
        text = self._held + text
        at = text.find("{")
        if at < 0:
            return text
        if not _may_be_call(text[at:]):
            self._is_text = True
            return text
        self._held = text[at:]
        return text[:at]


def _may_be_call(text: str) -> bool:
    """Whether `text`, which opens an object, is a call or may become one."""
    if not _OBJECT_OPENS.match(text):
        return False
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return True
    return "name" in found and ("arguments" in found or "parameters" in found)


def _outside_json(text: str) -> str:
    """Text without its objects and the semicolons between them."""
    pieces: list[str] = []
    end = 0
    while (start := text.find("{", end)) >= 0:
        pieces.append(text[end:start])
        _, length = json.JSONDecoder().raw_decode(text[start:])
        end = start + length
    return "".join(piece for piece in (*pieces, text[end:]) if piece.strip(" ;\n"))


def _read(machine: Any, text: str) -> list[SemanticEvent]:
    machine.reset(initial_state=ParserState.CONTENT)
    return machine.feed(text, [])


def _machine(parser: Parser) -> Any:
    """The state machine of a grammar-driven tool parser."""
    return getattr(getattr(parser.tool_parser, "_parser_engine", None), "_engine", None)


def _has_endings(config: Any) -> bool:
    """Whether something ends a call; in some formats only the next call or the reply's end does."""
    return config.tool_call_body_array or any(
        EventType.TOOL_CALL_END in each.events and EventType.TOOL_CALL_START not in each.events
        for each in config.transitions.values()
    )
