"""The requests of OpenAI's API, field by field (docs/reference 13).

The fields that Ollama has are read by Go's rules and with its texts. What it ignores and this server does not
is in `extra`, as it came, by its name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.api.openai.extras import CHAT_EXTRAS, COMPLETION_EXTRAS, EMBEDDING_EXTRAS
from app.api.tools import TOOL
from app.core.request import Json
from app.golang.types import ANY, BOOL, FLOAT, INT, STRING, Kind, list_of, struct

_T = TypeVar("_T")
_TOOLS = list_of(TOOL, go_type="[]api.Tool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Tools as a template may see them, and as the client wrote them."""

    seen: list[dict[str, Json]] = field(default_factory=list[dict[str, Json]])
    sent: list[Json] = field(default_factory=list[Json])


@dataclass(frozen=True, slots=True, kw_only=True)
class CallBody:
    """A call of the history; `arguments` is JSON as text. `custom` is what a call of no function holds."""

    id: str = ""
    name: str = ""
    arguments: str = ""
    custom: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageBody:
    """`reasoning_content` is `reasoning` by the name that other servers have for it.

    `audio` and `function_call` mean something which a model here could not be shown.
    """

    role: str = ""
    content: Json = None
    reasoning: str = ""
    reasoning_content: str = ""
    tool_calls: list[CallBody] = field(default_factory=list[CallBody])
    name: str = ""
    tool_call_id: str = ""
    refusal: str = ""
    audio: Json = None
    function_call: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answering:
    model: str = ""
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: Json = None
    extra: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatBody(_Answering):
    """`effort` is that of `reasoning` where there is one, else None."""

    messages: list[MessageBody] = field(default_factory=list[MessageBody])
    tools: Tools = field(default_factory=Tools)
    response_format: Mapping[str, Json] | None = None
    reasoning: str | None = None
    reasoning_effort: str | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionBody(_Answering):
    prompt: Json = None
    suffix: str = ""
    response_format: Mapping[str, Json] | None = None
    logprobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsBody:
    model: str = ""
    input: Json = None
    dimensions: int = 0
    encoding_format: str = ""
    extra: Mapping[str, Json] = field(default_factory=dict[str, Json])


def _struct(
    name: str, made: Callable[..., _T], kinds: Mapping[str, Kind[Any]], extra: Sequence[str]
) -> Kind[_T]:
    """A request: the fields of `kinds`, and those of `extra` as they come."""

    def make(**found: Any) -> _T:
        stream_options = found.pop("stream_options", None)
        if stream_options is not None:
            found |= stream_options
        beside = {key: found.pop(key) for key in extra if key in found}
        return made(**found, extra=beside)

    return struct(name, make, {**dict.fromkeys(extra, ANY), **kinds}, package="openai")


def _effort(*, effort: str = "") -> str:
    return effort


def _make_call(
    *, id: str = "", function: Mapping[str, str] | None = None, custom: Json = None, **_: Any
) -> CallBody:
    return CallBody(id=id, custom=custom, **(function or {}))


def _read_tools(value: Json) -> Tools:
    return Tools(seen=_TOOLS.read(value), sent=value)


def _part(name: str, made: Callable[..., Any], kinds: Mapping[str, Kind[Any]]) -> Kind[Any]:
    return struct(name, made, kinds, package="openai")


_CALL = _part(
    "ToolCall",
    _make_call,
    {
        "id": STRING,
        "index": INT,
        "type": STRING,
        "function": _part("Function", dict[str, str], {"name": STRING, "arguments": STRING}),
        "custom": ANY,
    },
)
_MESSAGE = _part(
    "Message",
    MessageBody,
    {
        "role": STRING,
        "content": ANY,
        "reasoning": STRING,
        "reasoning_content": STRING,
        "tool_calls": list_of(_CALL),
        "name": STRING,
        "tool_call_id": STRING,
        "refusal": STRING,
        "audio": ANY,
        "function_call": ANY,
    },
)
_ANSWERING: Mapping[str, Kind[Any]] = {
    "model": STRING,
    "stream": BOOL,
    "stream_options": _part("StreamOptions", dict[str, bool], {"include_usage": BOOL}),
    "max_tokens": INT,
    "temperature": FLOAT,
    "top_p": FLOAT,
    "seed": INT,
    "frequency_penalty": FLOAT,
    "presence_penalty": FLOAT,
    "stop": ANY,
}
_SCHEMA = _part("JsonSchema", dict[str, Json], {"schema": ANY})
_RESPONSE_FORMAT = _part("ResponseFormat", dict[str, Json], {"type": STRING, "json_schema": _SCHEMA})
CHAT: Kind[ChatBody] = _struct(
    "ChatCompletionRequest",
    ChatBody,
    {
        **_ANSWERING,
        "messages": list_of(_MESSAGE),
        "tools": Kind("[]api.Tool", _read_tools, Tools),
        "response_format": _RESPONSE_FORMAT,
        "reasoning": _part("Reasoning", _effort, {"effort": STRING}),
        "reasoning_effort": STRING,
        "logprobs": BOOL,
        "top_logprobs": INT,
        "_debug_render_only": BOOL,
    },
    CHAT_EXTRAS,
)
COMPLETION: Kind[CompletionBody] = _struct(
    "CompletionRequest",
    CompletionBody,
    {**_ANSWERING, "prompt": ANY, "suffix": STRING, "response_format": _RESPONSE_FORMAT, "logprobs": INT},
    COMPLETION_EXTRAS,
)
EMBEDDINGS: Kind[EmbeddingsBody] = _struct(
    "EmbedRequest",
    EmbeddingsBody,
    {"model": STRING, "input": ANY, "dimensions": INT, "encoding_format": STRING},
    EMBEDDING_EXTRAS,
)
