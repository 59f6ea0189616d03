"""The requests of Ollama's native API, field by field (docs/reference 4, 6.1, 7.1, 9 and 10.4).

Field names are the API's own. What a body leaves out has the default of its dataclass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.api.ollama.keepalive import read_keep_alive
from app.api.tools import ARGUMENTS, TOOL
from app.core.errors import InvalidRequest
from app.core.request import Json, Message, PastToolCall, Think
from app.golang.quote import quoted
from app.golang.types import (
    ANY,
    BOOL,
    IMAGE,
    INT,
    MAP,
    STRING,
    Kind,
    list_of,
    struct,
    unmarshaler,
)


@dataclass(frozen=True, slots=True)
class Datai:
    """`datai` of a request: the built-in tools that are on, and whether their use is told (docs/tools.md)."""

    tools: frozenset[str] = frozenset()
    progress: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answering:
    """What generate and chat share. `datai` is not Ollama's: tools that a server runs itself (row B5)."""

    model: str = ""
    stream: bool | None = None
    datai: Datai | None = None
    format: Json = None
    keep_alive: float | None = None
    options: Mapping[str, Json] = field(default_factory=dict[str, Json])
    think: Think = None
    truncate: bool = True
    shift: bool = True
    debug_render_only: bool = False
    logprobs: bool = False
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateBody(_Answering):
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[int] | None = None
    raw: bool = False
    images: list[bytes] = field(default_factory=list[bytes])


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatBody(_Answering):
    """`system` is not Ollama's: a prompt for a chat that starts with no system message (row B2)."""

    system: str = ""
    messages: list[Message] = field(default_factory=list[Message])
    tools: list[dict[str, Json]] = field(default_factory=list[dict[str, Json]])


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedBody:
    model: str = ""
    input: Json = None
    keep_alive: float | None = None
    truncate: bool = True
    dimensions: int = 0
    options: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingBody:
    model: str = ""
    prompt: str = ""
    keep_alive: float | None = None
    options: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowBody:
    """`template` is deprecated and changes nothing; `name` is the old spelling of `model`."""

    model: str = ""
    name: str = ""
    system: str = ""
    template: str = ""
    verbose: bool = False
    options: Mapping[str, Json] = field(default_factory=dict[str, Json])


class WrongThink(InvalidRequest):
    """`think` of another type. Whoever knows the levels of `model` may name them."""

    model = ""

    def __init__(self, more: str = "") -> None:
        super().__init__(f"think must be a boolean or string{more}")


def read_think(value: Json) -> Think:
    """Any name is a level: which there are is the model's to say."""
    if isinstance(value, bool | str):
        return value
    raise WrongThink


def _nothing() -> None:
    return None


def _make_datai(*, tools: Mapping[str, bool] | None = None, progress: bool = False) -> Datai:
    return Datai(frozenset(name for name, wanted in (tools or {}).items() if wanted), progress)


def _read_switches(value: Json) -> dict[str, bool]:
    """Raises: InvalidRequest: for what is no object of switches; which tools there are is told later."""
    if not isinstance(value, dict):
        raise InvalidRequest("datai.tools must be an object")
    for name, wanted in value.items():
        if not isinstance(wanted, bool | None):
            raise InvalidRequest(f"datai.tools: {quoted(name)} must be true or false")
    return {name.lower(): bool(wanted) for name, wanted in value.items()}


def _read_datai(value: Json) -> Datai:
    if not isinstance(value, dict):
        raise InvalidRequest("datai must be an object")
    unknown = next((name for name in value if name.lower() not in ("tools", "progress")), None)
    if unknown is not None:
        raise InvalidRequest(f'datai: there is no {quoted(unknown)}; there are "tools" and "progress"')
    return _DATAI_FIELDS.read(value)


_DATAI_FIELDS: Kind[Datai] = struct(
    "Datai",
    _make_datai,
    {"tools": Kind("map[string]bool", _read_switches, dict[str, bool]), "progress": BOOL},
)
_DATAI: Kind[Datai | None] = Kind("api.Datai", _read_datai, _nothing)
_THINK: Kind[Think] = Kind("api.ThinkValue", read_think, _nothing)
_KEEP_ALIVE: Kind[float | None] = Kind("api.Duration", read_keep_alive, _nothing)


def _make_tool_call(*, id: str = "", function: Mapping[str, Any] | None = None) -> PastToolCall:
    called = function or {}
    return PastToolCall(name=called.get("name", ""), arguments=called.get("arguments", {}), id=id)


def _make_message(
    *,
    role: str = "",
    content: str = "",
    images: Sequence[bytes] = (),
    tool_calls: Sequence[Any] = (),
    **found: Any,
) -> Message:
    return Message.of(role.lower(), content, images, tool_calls=tuple(tool_calls), **found)


_TOOL_CALL = struct(
    "ToolCall",
    _make_tool_call,
    {
        "id": STRING,
        "function": struct(
            "ToolCallFunction", dict[str, Any], {"index": INT, "name": STRING, "arguments": ARGUMENTS}
        ),
    },
)

MESSAGE = unmarshaler(
    "api.Message",
    struct(
        "Alias",
        _make_message,
        {
            "role": STRING,
            "content": STRING,
            "thinking": STRING,
            "images": list_of(IMAGE),
            "tool_calls": list_of(_TOOL_CALL),
            "tool_name": STRING,
            "tool_call_id": STRING,
        },
    ),
)

_ANSWERING: dict[str, Kind[Any]] = {
    "model": STRING,
    "stream": BOOL,
    "datai": _DATAI,
    "format": ANY,
    "keep_alive": _KEEP_ALIVE,
    "options": MAP,
    "think": _THINK,
    "truncate": BOOL,
    "shift": BOOL,
    "_debug_render_only": BOOL,
    "logprobs": BOOL,
    "top_logprobs": INT,
}

GENERATE: Kind[GenerateBody] = struct(
    "GenerateRequest",
    GenerateBody,
    {
        **_ANSWERING,
        "prompt": STRING,
        "suffix": STRING,
        "system": STRING,
        "template": STRING,
        "context": list_of(INT),
        "raw": BOOL,
        "images": list_of(IMAGE),
    },
)

CHAT: Kind[ChatBody] = struct(
    "ChatRequest",
    ChatBody,
    {
        **_ANSWERING,
        "system": STRING,
        "messages": list_of(MESSAGE),
        "tools": list_of(TOOL, go_type="api.Tools"),
    },
)

EMBED: Kind[EmbedBody] = struct(
    "EmbedRequest",
    EmbedBody,
    {
        "model": STRING,
        "input": ANY,
        "keep_alive": _KEEP_ALIVE,
        "truncate": BOOL,
        "dimensions": INT,
        "options": MAP,
    },
)

EMBEDDING: Kind[EmbeddingBody] = struct(
    "EmbeddingRequest",
    EmbeddingBody,
    {"model": STRING, "prompt": STRING, "keep_alive": _KEEP_ALIVE, "options": MAP},
)

NAMED: Kind[dict[str, str]] = struct("Named", dict[str, str], {"model": STRING})
"""Of any request only the model."""

SHOW: Kind[ShowBody] = struct(
    "ShowRequest",
    ShowBody,
    {
        "model": STRING,
        "name": STRING,
        "system": STRING,
        "template": STRING,
        "verbose": BOOL,
        "options": MAP,
    },
)
