"""The requests of Anthropic's Messages API, field by field (docs/reference 15.2 and 15.3).

Types and texts for wrong ones are those of Ollama's structs; what Ollama does not know of a field is
Anthropic's own. Keys that stand in no table here are ignored, as Ollama ignores them; docs/anthropic.md lists
those that Anthropic gives a meaning.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.api.tools import ARGUMENTS
from app.core.errors import InvalidRequest
from app.core.request import Json
from app.golang.types import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    STRING,
    Kind,
    Mismatch,
    list_of,
    parse,
    struct,
    unmarshaler,
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A content block. `source` and `content` are read by what the type makes of them.

    `transformations` is what may be done to a picture, `tool_changes` what a summary says of tools.
    """

    type: str = ""
    text: str = ""
    source: Json = None
    id: str = ""
    name: str = ""
    input: Mapping[str, Json] = field(default_factory=dict[str, Json])
    tool_use_id: str = ""
    content: Json = None
    is_error: bool = False
    thinking: str = ""
    title: str = ""
    context: str = ""
    transformations: Json = None
    tool_changes: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A message of the request. `clear_at` is how long a system message is to be shown."""

    role: str = ""
    content: list[Block]
    clear_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool; `type` is empty or `custom` for what the client defined itself."""

    type: str = ""
    name: str = ""
    description: str = ""
    input_schema: Json = None
    max_uses: int | None = None
    allowed_domains: Json = None
    blocked_domains: Json = None
    url_sources: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    type: str = ""
    name: str = ""
    disable_parallel_tool_use: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingConfig:
    """`budget_tokens` changes nothing: the engine counts reasoning within `max_tokens`."""

    type: str = ""
    budget_tokens: int = 0
    display: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputConfig:
    effort: str = ""
    format: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesBody:
    """A body of either route; `output_format` is the older place of `output_config.format`."""

    model: str = ""
    max_tokens: int = 0
    messages: list[Turn] = field(default_factory=list[Turn])
    system: Json = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] = field(default_factory=list[str])
    tools: list[Tool] = field(default_factory=list[Tool])
    tool_choice: Choice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig = OutputConfig()
    output_format: Json = None
    metadata: None = None
    container: Json = None
    mcp_servers: Json = None
    thread: Json = None
    compaction: Json = None
    datai: Json = None


def _struct(name: str, make: Callable[..., _T], fields: Mapping[str, Kind[Any]]) -> Kind[_T]:
    return struct(name, make, fields, package="anthropic")


def _ignored(**_: Any) -> None:
    return None


BLOCK: Kind[Block] = _struct(
    "ContentBlock",
    Block,
    {
        "type": STRING,
        "text": STRING,
        "source": ANY,
        "id": STRING,
        "name": STRING,
        "input": ARGUMENTS,
        "tool_use_id": STRING,
        "content": ANY,
        "is_error": BOOL,
        "thinking": STRING,
        "title": STRING,
        "context": STRING,
        "transformations": ANY,
        "tool_changes": ANY,
    },
)
_BLOCKS: Kind[list[Block]] = list_of(BLOCK)


def _read_content(value: Json) -> list[Block]:
    """A string is one text block; null is a block without text (docs/reference 15.3)."""
    if value is None or isinstance(value, str):
        return [Block(type="text", text=value or "")]
    return _BLOCKS.read(value)


def read_blocks(value: Json) -> list[Block]:
    """The blocks of a nested `content`: a string, a list or nothing.

    Raises:
        InvalidRequest: with Go's text for what is neither.
    """
    return parse(Kind("[]anthropic.ContentBlock", _read_content, list[Block]), value)


_ROLE: Kind[dict[str, str]] = _struct("MessageParam", dict[str, str], {"role": STRING, "clear_at": STRING})


def _read_turn(value: Json) -> Turn:
    told = _ROLE.read(value)
    found = [item for key, item in value.items() if key.lower() == "content"]
    if not found:
        raise InvalidRequest("unexpected end of JSON input")
    return Turn(
        role=told.get("role", "").lower(),
        content=_read_content(found[-1]),
        clear_at=told.get("clear_at", ""),
    )


def _no_turn() -> Turn:
    """A null among the messages, which has no content."""
    return _read_turn({})


_TURN = unmarshaler("anthropic.MessageParam", Kind("anthropic.MessageParam", _read_turn, _no_turn))


def _read_strings(value: Json) -> list[str]:
    return list_of(STRING).read(value)


def _read_system(value: Json) -> Json:
    """A string, or a list of text blocks; nothing else is a system prompt."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _BLOCKS.read(value)
    raise Mismatch(value, "[]anthropic.ContentBlock")


def _nothing() -> None:
    return None


MESSAGES: Kind[MessagesBody] = _struct(
    "MessagesRequest",
    MessagesBody,
    {
        "model": STRING,
        "max_tokens": INT,
        "messages": list_of(_TURN),
        "system": Kind("[]anthropic.ContentBlock", _read_system, _nothing),
        "stream": BOOL,
        "temperature": FLOAT,
        "top_p": FLOAT,
        "top_k": INT,
        "stop_sequences": Kind("[]string", _read_strings, list[str]),
        "tools": list_of(
            _struct(
                "Tool",
                Tool,
                {
                    "type": STRING,
                    "name": STRING,
                    "description": STRING,
                    "input_schema": ANY,
                    "max_uses": INT,
                    "allowed_domains": ANY,
                    "blocked_domains": ANY,
                    "url_sources": ANY,
                },
            )
        ),
        "tool_choice": _struct(
            "ToolChoice", Choice, {"type": STRING, "name": STRING, "disable_parallel_tool_use": BOOL}
        ),
        "thinking": _struct(
            "ThinkingConfig",
            ThinkingConfig,
            {"type": STRING, "budget_tokens": INT, "display": STRING},
        ),
        "output_config": _struct("OutputConfig", OutputConfig, {"effort": STRING, "format": ANY}),
        "output_format": ANY,
        "metadata": _struct("Metadata", _ignored, {"user_id": STRING}),
        "container": ANY,
        "mcp_servers": ANY,
        "thread": ANY,
        "compaction": ANY,
        "datai": ANY,
    },
)
