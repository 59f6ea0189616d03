"""What the fields of an OpenAI request may hold at most, told before anything is made of them."""

from collections.abc import Iterator
from typing import Any

from app.api.bounds import items, refuse_nested, refuse_stops, written_bytes
from app.core.limits import InputLimits, refuse_over
from app.core.request import Json

_TEXTS = ("prompt", "suffix")
_PART_TEXTS = ("text", "refusal")
_NESTED = ("tools", "response_format", "chat_template_kwargs", "structured_outputs", "guided_json")


def refuse_over_limits(value: Json, body_bytes: int, limits: InputLimits) -> None:
    """Refuse a request for what it has too much of. Other faults are for whoever reads the field.

    Raises:
        InvalidRequest: naming the field, the limit and what came.
    """
    if not isinstance(value, dict):
        return
    pictures: list[str] = []
    text_chars = calls = 0
    for name, item in value.items():  # in every spelling, since Go reads each in turn
        folded = name.lower()
        _refuse_field(folded, item, limits)
        if folded in _TEXTS:
            text_chars += sum(len(text) for text in items(item) or [item] if isinstance(text, str))
        for message in items(item) if folded == "messages" else ():
            for field, content in _fields(message):
                text_chars += len(content) if isinstance(content, str) else 0
                if field == "content":
                    pictures += _urls(content)
                    text_chars += _text_chars(content)
                if field == "tool_calls":
                    calls += len(items(content))
                    text_chars += written_bytes(content)
    refuse_over("images", limits.images, len(pictures))
    refuse_over("tool_calls", limits.tool_calls, calls)
    in_pictures = sum(map(len, pictures))
    refuse_over("request body", limits.body_bytes, body_bytes - in_pictures, " bytes besides pictures")
    refuse_over("text", limits.text_chars, text_chars, " characters")
    _refuse_over_all_answers(value, text_chars, len(pictures), limits)


def _refuse_over_all_answers(
    value: dict[str, Json], text_chars: int, pictures: int, limits: InputLimits
) -> None:
    """Each of `n` answers has its prompt made for itself."""
    fields = [(name.lower(), item) for name, item in value.items()]
    count = max((item for name, item in fields if name == "n" and type(item) is int), default=1)
    count = min(count, limits.choices or count)  # more are refused as such, with the prompts counted in
    if count > 1:
        beside = sum(written_bytes(item) for name, item in fields if name == "tools")
        beside += sum(_token_count(item) for name, item in fields if name == "prompt")
        refuse_over("images", limits.images, count * pictures, " for all answers together")
        refuse_over("n", limits.choice_chars, count * (text_chars + beside), " characters for all answers")


def refuse_choices(name: str, count: int, limits: InputLimits) -> None:
    """Refuse more answers than one request may have. Raises `InvalidRequest`."""
    refuse_over(name, limits.choices, count, " answers")


def _refuse_field(name: str, item: Json, limits: InputLimits) -> None:
    if name in _NESTED:
        refuse_nested(name, item, limits)
    match name:
        case "messages":
            refuse_over(name, limits.messages, len(items(item)))
        case "tools":
            refuse_over(name, limits.tools, len(items(item)))
            refuse_over(name, limits.tool_bytes, written_bytes(item), " bytes of JSON")
        case "response_format":
            refuse_over(name, limits.schema_bytes, written_bytes(item), " bytes of JSON")
        case "chat_template_kwargs":
            refuse_over(name, limits.variable_bytes, written_bytes(item), " bytes of JSON")
        case "stop":
            refuse_stops(item, limits)
        case "prompt":
            refuse_over(name, limits.context, _token_count(item), " token ids")
        case "input":
            refuse_over(name, limits.embed_inputs, len(items(item)))
            longest = max((len(text) for text in items(item) or [item] if isinstance(text, str)), default=0)
            refuse_over(name, limits.text_chars, longest, " characters in one text")
        case _:
            pass


def _token_count(prompt: Json) -> int:
    return sum(len(items(item)) or (type(item) is int) for item in items(prompt))


def _fields(message: Json) -> Iterator[tuple[str, Any]]:
    fields = message.items() if isinstance(message, dict) else ()
    return ((name.lower(), value) for name, value in fields)


def _urls(content: Json) -> Iterator[str]:
    for part in items(content):
        url = part.get("image_url") if isinstance(part, dict) else None
        url = url.get("url") if isinstance(url, dict) else url
        if isinstance(url, str):
            yield url


def _text_chars(content: Json) -> int:
    parts = (part.get(key) for part in items(content) if isinstance(part, dict) for key in _PART_TEXTS)
    return sum(len(text) for text in parts if isinstance(text, str))
