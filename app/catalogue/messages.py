"""The messages that a model begins with, as its layer holds them: Ollama's `api.Message`, whole."""

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from typing import Any

import orjson

from app.core.errors import BadManifest
from app.core.request import Message, PastToolCall


def read_message(found: Mapping[str, Any]) -> Message:
    """Raises: BadManifest: for one with members of other types."""
    try:
        return Message.of(
            _text(found, "role"),
            _text(found, "content"),
            [b64decode(data, validate=True) for data in found.get("images") or ()],
            thinking=_text(found, "thinking"),
            tool_calls=tuple(map(_tool_call, found.get("tool_calls") or ())),
            tool_name=_text(found, "tool_name"),
            tool_call_id=_text(found, "tool_call_id"),
        )
    except (AttributeError, TypeError, NotBase64) as error:
        raise BadManifest("a message is not as Ollama has them") from error


def message_document(message: Message) -> dict[str, Any]:
    """The same as JSON; as in Ollama's, what is empty is left out, but for the content."""
    found = {
        "role": message.role,
        "content": message.text,
        "thinking": message.thinking,
        "images": [b64encode(data).decode() for data in message.images],
        "tool_calls": list(map(_document, message.tool_calls)),
        "tool_name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }
    return {key: value for key, value in found.items() if value or key == "content"}


def chars_of(message: Message) -> int:
    """Characters of all its texts, calls as JSON among them."""
    texts = (message.role, message.text, message.thinking, message.tool_name, message.tool_call_id)
    calls = sum(len(call.name) + len(orjson.dumps(call.arguments)) for call in message.tool_calls)
    return sum(map(len, texts)) + calls


def _document(call: PastToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": dict(call.arguments)}
    return {"id": call.id, "function": function} if call.id else {"function": function}


def _tool_call(found: Mapping[str, Any]) -> PastToolCall:
    function = found.get("function") or {}
    arguments = function.get("arguments") or {}
    return PastToolCall(_text(function, "name"), dict(arguments.items()), _text(found, "id"))


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name) or ""
    if not isinstance(value, str):
        raise TypeError(name)
    return value
