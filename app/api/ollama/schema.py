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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answering:
    """What generate and chat share. `datai` is not Ollama's: tools that a server runs itself (row B5)."""

    model: str = ""
    stream: bool | None = None
    datai: None = None
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


@dataclass(frozen=True, slots=True)
class PullBody:
    """`insecure` speaks of a registry, which there is none of; `name` is the old spelling of `model`."""

    model: str = ""
    name: str = ""
    insecure: bool = False
    username: str = ""
    password: str = ""
    stream: bool = True


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


def read_datai(value: Json) -> None:
    """Refused: an answer without the tools that were asked for would look like the model's failure."""
    if not isinstance(value, dict):
        raise InvalidRequest("datai must be an object")
    tools = next((item for key, item in value.items() if key.lower() == "tools"), None)
    wanted = tools.values() if isinstance(tools, dict) else (tools,)
    if any(wanted):
        raise InvalidRequest("datai.tools: this server has no built-in tools; leave the field out")


_DATAI: Kind[None] = Kind("api.Datai", read_datai, _nothing)
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

_MESSAGE = unmarshaler(
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
        "messages": list_of(_MESSAGE),
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

PULL: Kind[PullBody] = struct(
    "PullRequest",
    PullBody,
    {
        "model": STRING,
        "name": STRING,
        "insecure": BOOL,
        "username": STRING,
        "password": STRING,
        "stream": BOOL,
    },
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
