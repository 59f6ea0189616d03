"""What the fields of an Ollama request may hold at most, told before anything is made of them."""

from typing import Any

from app.api.bounds import items, refuse_nested, refuse_stops, written_bytes
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
        pictures += items(item) if folded == "images" else ()
        for message in items(item) if folded == "messages" else ():
            pictures += _in_message(message, "images")
            calls += _in_message(message, "tool_calls")
            text_chars += _text_chars(message)
    refuse_over("images", limits.images, len(pictures))
    refuse_over("tool_calls", limits.tool_calls, len(calls))
    refuse_nested("messages.tool_calls", calls, limits)
    in_pictures = sum(len(each) for each in pictures if isinstance(each, str))
    refuse_over("request body", limits.body_bytes, body_bytes - in_pictures, " bytes besides pictures")
    text_chars += written_bytes(calls) if calls else 0
    refuse_over("text", limits.text_chars, text_chars, " characters")


def _refuse_field(name: str, item: Json, limits: InputLimits) -> None:
    if name in _NESTED:
        refuse_nested(name, item, limits)
    match name:
        case "messages" | "tools" | "context":
            refuse_over(name, getattr(limits, name), len(items(item)))
            if name == "tools":
                refuse_over(name, limits.tool_bytes, written_bytes(item), " bytes of JSON")
        case "format":
            refuse_over(name, limits.schema_bytes, written_bytes(item), " bytes of JSON")
        case "input":
            refuse_over(name, limits.embed_inputs, len(items(item)))
            longest = max((len(text) for text in items(item) or [item] if isinstance(text, str)), default=0)
            refuse_over(name, limits.text_chars, longest, " characters in one text")
        case "template":
            refuse_over(name, limits.template_chars, len(item) if isinstance(item, str) else 0, " characters")
        case "options" if isinstance(item, dict):
            _refuse_options(item, limits)
        case _:
            pass


def _refuse_options(options: dict[str, Json], limits: InputLimits) -> None:
    refuse_stops(options.get("stop"), limits)
    others = (value for name, value in options.items() if name != "stop")
    refuse_over("options", limits.options, sum(max(1, len(items(value))) for value in others))


def _in_message(message: Json, field: str) -> list[Any]:
    fields = message.items() if isinstance(message, dict) else ()
    return [item for name, value in fields if name.lower() == field for item in items(value)]


def _text_chars(message: Json) -> int:
    values = message.values() if isinstance(message, dict) else ()
    return sum(len(value) for value in values if isinstance(value, str))
