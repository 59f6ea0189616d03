"""A value that a model wrote as plain text, in the type that the tool's schema gives it."""

import re
from collections.abc import Mapping
from typing import Any

from app.decode.calls.base import Schema
from app.decode.calls.strict import decode_whole

_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,4000})", re.ASCII)
_BOOLEANS = {"true": True, "false": False}
_UNIONS = ("anyOf", "oneOf", "allOf")
_MAX_STEPS = 32
"""How many unions and references are followed for one property."""


def typed(text: str, schema: Schema, key: str) -> Any:
    """What `text` is as the argument `key`. What fits no other type stays text (as in Ollama)."""
    types = _types(_property(schema, key), schema)
    if text.lower() == "null" and (not types or "null" in types or "string" not in types):
        return None
    if "boolean" in types and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if "integer" in types and _INTEGER.fullmatch(text.strip()):
        return int(text)
    wanted = [_JSON_TYPES[each] for each in types if each in _JSON_TYPES]
    return _decoded(text, tuple(kind for kinds in wanted for kind in kinds)) if wanted else text


def json_or_text(text: str) -> Any:
    """A value whose format says that it is JSON, or its text where it is none."""
    try:
        return decode_whole(text)
    except ValueError:
        return text


_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}


def _decoded(text: str, kinds: tuple[type, ...]) -> Any:
    value = json_or_text(text)
    return value if isinstance(value, kinds) and not isinstance(value, bool) else text


def _property(schema: Schema, key: str) -> Any:
    properties = schema.get("properties")
    return properties.get(key) if isinstance(properties, Mapping) else None


def _types(wanted: Any, root: Schema) -> set[str]:
    """The names of the types that a property may have; none, where its schema does not say."""
    found, waiting = set[str](), [wanted]
    for _ in range(_MAX_STEPS):
        if not waiting:
            break
        each = _followed(waiting.pop(), root)
        if not isinstance(each, Mapping):
            continue
        kinds = each.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        found.update(kind for kind in kinds if isinstance(kind, str))
        for union in _UNIONS:
            parts = each.get(union)
            waiting += parts if isinstance(parts, list) else []
    return found


def _followed(each: Any, root: Schema) -> Any:
    reference = each.get("$ref") if isinstance(each, Mapping) else None
    definitions = root.get("$defs")
    if isinstance(reference, str) and isinstance(definitions, Mapping):
        return definitions.get(reference.removeprefix("#/$defs/"), each)
    return each
