"""Owns the reading of a keyword that is null: it says nothing, as a null field of a request does.

Libraries that write out every field of a schema object send such schemas.
"""

from typing import Any

from app.constrain.types import JsonPointer, unsupported
from app.core.request import Json

_VALUES = frozenset({"const", "enum", "default", "examples", "required", "type", "dependentRequired"})
_NAMED = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)
_OPTIONS = "x-guidance"
"""By which a schema changes how llguidance reads it."""


def without_nulls(schema: Any, place: JsonPointer = ()) -> Any:
    """The schema less its null keywords, at any depth; a null `const` is a value."""
    if isinstance(schema, list):
        return [without_nulls(item, (*place, at)) for at, item in enumerate(schema)]
    if not isinstance(schema, dict):
        return schema
    if _OPTIONS in schema:
        raise unsupported(place, _OPTIONS, "is not for clients to set")
    return {
        keyword: _kept(keyword, value, (*place, keyword))
        for keyword, value in schema.items()
        if value is not None or keyword == "const"
    }


def _kept(keyword: str, value: Json, place: JsonPointer) -> Any:
    if keyword in _VALUES:
        return value
    if keyword in _NAMED and isinstance(value, dict):
        return {name: without_nulls(child, (*place, name)) for name, child in value.items()}
    return without_nulls(value, place)
