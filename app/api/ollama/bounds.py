"""What the fields of a request may hold at most, told from the decoded JSON before anything is made of it."""

from collections.abc import Iterator
from typing import Any

import orjson

from app.core.errors import InvalidRequest
from app.core.limits import InputLimits, refuse_over
from app.core.request import Json

_TEXTS = ("prompt", "suffix", "system")
_NESTED = ("tools", "format", "options")


def refuse_over_limits(value: Json, body_bytes: int, limits: InputLimits) -> None:
    """Refuse a request for what it has too much of. Other faults are for whoever reads the field.

    Raises:
        InvalidRequest: naming the field, the limit and what came.
    """
    if not isinstance(value, dict):
        return
    text_chars = 0
    pictures: list[Any] = []
    calls: list[Any] = []
    for name, item in value.items():  # in every spelling, since Go reads each in turn
        folded = name.lower()
        _refuse_field(folded, item, limits)
        text_chars += len(item) if folded in _TEXTS and isinstance(item, str) else 0
        pictures += _items(item) if folded == "images" else ()
        for message in _items(item) if folded == "messages" else ():
            pictures += _in_message(message, "images")
            calls += _in_message(message, "tool_calls")
            text_chars += _text_chars(message)
    refuse_over("images", limits.images, len(pictures))
    refuse_over("tool_calls", limits.tool_calls, len(calls))
    _refuse_nested("messages.tool_calls", calls, limits)
    in_pictures = sum(len(each) for each in pictures if isinstance(each, str))
    refuse_over("request body", limits.body_bytes, body_bytes - in_pictures, " bytes besides pictures")
    text_chars += _written_bytes(calls) if calls else 0
    refuse_over("text", limits.text_chars, text_chars, " characters")


def _refuse_field(name: str, item: Json, limits: InputLimits) -> None:
    if name in _NESTED:
        _refuse_nested(name, item, limits)
    match name:
        case "messages" | "tools" | "context":
            refuse_over(name, getattr(limits, name), len(_items(item)))
            if name == "tools":
                refuse_over(name, limits.tool_bytes, _written_bytes(item), " bytes of JSON")
        case "format":
            refuse_over(name, limits.schema_bytes, _written_bytes(item), " bytes of JSON")
        case "input":
            refuse_over(name, limits.embed_inputs, len(_items(item)))
            longest = max((len(text) for text in _items(item) or [item] if isinstance(text, str)), default=0)
            refuse_over(name, limits.text_chars, longest, " characters in one text")
        case "template":
            refuse_over(name, limits.template_chars, len(item) if isinstance(item, str) else 0, " characters")
        case "options" if isinstance(item, dict):
            _refuse_options(item, limits)
        case _:
            pass


def _refuse_options(options: dict[str, Json], limits: InputLimits) -> None:
    _refuse_stops(options.get("stop"), limits)
    others = (value for name, value in options.items() if name != "stop")
    refuse_over("options", limits.options, sum(max(1, len(_items(value))) for value in others))


def _in_message(message: Json, field: str) -> list[Any]:
    fields = message.items() if isinstance(message, dict) else ()
    return [item for name, value in fields if name.lower() == field for item in _items(value)]


def _text_chars(message: Json) -> int:
    values = message.values() if isinstance(message, dict) else ()
    return sum(len(value) for value in values if isinstance(value, str))


def _items(value: Json) -> list[Any]:
    return value if isinstance(value, list) else []


def _refuse_nested(name: str, value: Json, limits: InputLimits) -> None:
    """Readers of these fields, ours and the engine's, are recursive."""
    if not limits.nesting:
        return
    level = [value]
    for _ in range(limits.nesting):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise InvalidRequest(f"{name}: at most {limits.nesting} levels of nesting, this request has more")


def _children(node: Json) -> Iterator[Json]:
    inner = node.values() if isinstance(node, dict) else _items(node)
    return (child for child in inner if isinstance(child, dict | list))


def _written_bytes(value: Json) -> int:
    return len(orjson.dumps(value)) if isinstance(value, dict | list) else 0


def _refuse_stops(value: Json, limits: InputLimits) -> None:
    """Refuse a client's `stop` that is too much: the engine looks for every string at every token.

    Raises:
        InvalidRequest: for too many strings, or too long ones.
    """
    stops = value if isinstance(value, list | tuple) else ()
    refuse_over("stop", limits.stop, len(stops))
    chars = sum(len(stop) for stop in stops if isinstance(stop, str))
    refuse_over("stop", limits.stop_chars, chars, " characters together")
