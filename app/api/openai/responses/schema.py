"""The body of a request for a response, field by field, read by Go's rules (docs/reference 14.1).

Field names are the API's own. What a body leaves out has the default of its dataclass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.core.errors import InvalidRequest
from app.core.request import Json, Think
from app.golang.types import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    MAP,
    STRING,
    Kind,
    list_of,
    struct,
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningBody:
    """`summary` and its older name change nothing: the reasoning is always shown as it is."""

    effort: str = ""
    summary: str = ""
    generate_summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatBody:
    """`name`, `description` and `strict` change nothing: a schema is always kept to in full."""

    type: str = ""
    name: str = ""
    description: str = ""
    strict: bool = False
    schema: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBody:
    format: FormatBody | None = None
    verbosity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesBody:
    """`think` is Ollama's own (docs/reference 22.3); None where the body has none."""

    model: str = ""
    input: Json = None
    instructions: str | None = None
    stream: bool = False
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning: ReasoningBody | None = None
    think: Think = None
    text: TextBody = field(default_factory=TextBody)
    tools: list[Json] = field(default_factory=list[Json])
    tool_choice: Json = None
    parallel_tool_calls: bool = True
    top_logprobs: int = 0
    include: list[str] = field(default_factory=list[str])
    truncation: str = ""
    background: bool = False
    previous_response_id: str = ""
    conversation: Json = None
    prompt: Json = None
    context_management: Json = None
    moderation: Json = None
    store: bool = False
    metadata: Mapping[str, Json] = field(default_factory=dict[str, Json])
    max_tool_calls: int | None = None
    service_tier: str = ""
    user: str = ""
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Json = None
    datai: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactBody:
    """A request for a compaction. `stream` changes nothing: the answer is one document."""

    model: str = ""
    input: Json = None
    previous_response_id: str = ""
    tools: list[Json] = field(default_factory=list[Json])
    stream: bool = False


def _read_think(value: Json) -> Think:
    if isinstance(value, bool | str):
        return value
    raise InvalidRequest("think must be a boolean or string")


def _nothing() -> None:
    return None


def _struct(name: str, make: Callable[..., _T], fields: Mapping[str, Kind[Any]]) -> Kind[_T]:
    return struct(name, make, fields, package="openai")


_THINK: Kind[Think] = Kind("api.ThinkValue", _read_think, _nothing)

_REASONING = _struct(
    "ResponsesReasoning",
    ReasoningBody,
    {"effort": STRING, "summary": STRING, "generate_summary": STRING},
)
_FORMAT = _struct(
    "ResponsesTextFormat",
    FormatBody,
    {"type": STRING, "name": STRING, "description": STRING, "strict": BOOL, "schema": ANY},
)
_TEXT = _struct("ResponsesText", TextBody, {"format": _FORMAT, "verbosity": STRING})

RESPONSES: Kind[ResponsesBody] = _struct(
    "ResponsesRequest",
    ResponsesBody,
    {
        "model": STRING,
        "input": ANY,
        "instructions": STRING,
        "stream": BOOL,
        "max_output_tokens": INT,
        "temperature": FLOAT,
        "top_p": FLOAT,
        "reasoning": _REASONING,
        "think": _THINK,
        "text": _TEXT,
        "tools": list_of(ANY, go_type="[]openai.ResponsesTool"),
        "tool_choice": ANY,
        "parallel_tool_calls": BOOL,
        "top_logprobs": INT,
        "include": list_of(STRING),
        "truncation": STRING,
        "background": BOOL,
        "previous_response_id": STRING,
        "conversation": ANY,
        "prompt": ANY,
        "context_management": ANY,
        "moderation": ANY,
        "store": BOOL,
        "metadata": MAP,
        "max_tool_calls": INT,
        "service_tier": STRING,
        "user": STRING,
        "safety_identifier": STRING,
        "prompt_cache_key": STRING,
        "prompt_cache_options": ANY,
        "datai": ANY,
    },
)

COMPACT: Kind[CompactBody] = _struct(
    "ResponsesCompactRequest",
    CompactBody,
    {
        "model": STRING,
        "input": ANY,
        "previous_response_id": STRING,
        "tools": list_of(ANY, go_type="[]openai.ResponsesTool"),
        "stream": BOOL,
    },
)

ITEM: Kind[dict[str, Any]] = _struct(
    "ResponsesInputItem",
    dict[str, Any],
    {
        "type": STRING,
        "role": STRING,
        "content": ANY,
        "id": STRING,
        "call_id": STRING,
        "name": STRING,
        "namespace": STRING,
        "arguments": ANY,
        "output": ANY,
        "input": STRING,
        "action": ANY,
        "summary": ANY,
        "encrypted_content": STRING,
        "execution": STRING,
        "filters": ANY,
        "tools": list_of(ANY, go_type="[]openai.ResponsesTool"),
    },
)
"""An item of `input`, of whatever kind: the fields of all of them."""

PART: Kind[dict[str, Any]] = _struct(
    "ResponsesContent",
    dict[str, Any],
    {"type": STRING, "text": STRING, "refusal": STRING, "image_url": STRING, "file_id": STRING},
)
"""A piece of an item's content."""

TOOL_ENTRY: Kind[dict[str, Any]] = _struct(
    "ResponsesTool",
    dict[str, Any],
    {
        "type": STRING,
        "name": STRING,
        "description": STRING,
        "parameters": ANY,
        "strict": BOOL,
        "format": ANY,
        "execution": STRING,
        "filters": ANY,
        "tools": list_of(ANY, go_type="[]openai.ResponsesTool"),
    },
)
"""A tool, of whatever kind."""
