"""What a compaction item holds: a summary and the messages that were kept whole.

The form is Ollama's (docs/reference 22.3): JSON text, nothing of which is encrypted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.api.wire import dumps
from app.core.errors import InvalidRequest
from app.core.limits import InputLimits, refuse_over
from app.core.request import Json, Message
from app.golang.json import decode
from app.golang.types import ANY, STRING, Mismatch, list_of, struct

SUMMARY_TOOL = "ollama_compaction_summary"
"""The function whose answer a summary is to the model."""

_TYPE, _VERSION = "ollama_compaction", 1


def _make_call(*, id: str = "", function: Mapping[str, Any] | None = None) -> dict[str, Any]:
    called = function or {}
    return {"id": id, "name": called.get("name", ""), "arguments": called.get("arguments", {})}


def _make_message(
    *,
    role: str = "",
    content: str = "",
    thinking: str = "",
    tool_calls: Sequence[Any] = (),
    tool_call_id: str = "",
) -> dict[str, Any]:
    return {
        "role": role.lower(),
        "content": content,
        "thinking": thinking,
        "tool_calls": tool_calls,
        "tool_call_id": tool_call_id,
    }


_CALL = struct(
    "ToolCall",
    _make_call,
    {
        "id": STRING,
        "function": struct("ToolCallFunction", dict[str, Any], {"name": STRING, "arguments": ANY}),
    },
)
_MESSAGE = struct(
    "Message",
    _make_message,
    {
        "role": STRING,
        "content": STRING,
        "thinking": STRING,
        "tool_calls": list_of(_CALL),
        "tool_call_id": STRING,
    },
)
_RETAINED = list_of(_MESSAGE)


@dataclass(frozen=True, slots=True)
class Payload:
    """`retained` are messages as `/api/chat` has them, each with the keys of `_make_message`."""

    summary: str
    retained: Sequence[Mapping[str, Any]]


def read_payload(packed: str, limits: InputLimits) -> Payload:
    """What an item's `encrypted_content` says.

    Raises:
        InvalidRequest: with Ollama's text for what is no payload of this kind.
    """
    try:
        value = decode(packed.encode(), limits)
    except InvalidRequest:
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest("unsupported compaction item: encrypted_content is not an Ollama payload")
    summary, retained = value.get("summary"), value.get("retained") or []
    if value.get("type") != _TYPE or value.get("version") != _VERSION or not isinstance(summary, str):
        raise InvalidRequest("unsupported Ollama compaction payload type or version")
    try:
        messages = _RETAINED.read(retained)
    except Mismatch as error:
        raise InvalidRequest(f"unsupported compaction item: {error}") from None
    refuse_over("retained messages", limits.messages, len(messages))
    refuse_over("retained tool_calls", limits.tool_calls, sum(len(each["tool_calls"]) for each in messages))
    return Payload(summary, messages)


def write_payload(summary: str, retained: Sequence[Message]) -> str:
    """An `encrypted_content` that says this."""
    document = {
        "type": _TYPE,
        "version": _VERSION,
        "summary": summary,
        "retained": [_written(message) for message in retained],
    }
    return dumps(document).decode()


def _written(message: Message) -> dict[str, Json]:
    optional: dict[str, Json] = {
        "thinking": message.thinking,
        "tool_calls": [
            {"id": call.id, "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in message.tool_calls
        ],
        "tool_name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }
    kept = {key: value for key, value in optional.items() if value}
    return {"role": message.role, "content": message.text, **kept}
