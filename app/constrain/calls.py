"""Owns what an answer must be that has to call tools: a JSON array of calls, each by its tool's schema."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.core.request import Json

NAME, ARGUMENTS = "name", "arguments"
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
"""Keywords that hold schemas by name."""

_VALUES = ("const", "enum")
"""Keywords that hold values, in which nothing is a schema."""

_DROPPED = ("$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated")
"""Annotations, which constrain nothing: what a schema may have of values would go to them."""


def calls_schema(tools: Sequence[tuple[str, Json]], *, most: int | None = None) -> Mapping[str, Json]:
    """The schema of at least one call of these tools (name and schema of the arguments), at most `most`.

    The schemas become definitions of one, and what they refer to within themselves goes on to be found.
    """
    definitions: dict[str, Json] = {}
    calls: list[Json] = []
    for at, (name, schema) in enumerate(tools):
        definitions[f"tool{at}"] = _moved(_of_object(schema), f"#/$defs/tool{at}")
        properties = {NAME: {"const": name}, ARGUMENTS: {"$ref": f"#/$defs/tool{at}"}}
        calls.append(
            {
                "type": "object",
                "properties": properties,
                "required": [NAME, ARGUMENTS],
                "additionalProperties": False,
            }
        )
    limit = {} if most is None else {"maxItems": most}
    return {"type": "array", "items": {"anyOf": calls}, "minItems": 1, **limit, "$defs": definitions}


def _of_object(schema: Json) -> Json:
    """Arguments are an object, whatever the schema leaves open."""
    if not isinstance(schema, dict) or not schema:
        return {"type": "object"}
    return schema if "type" in schema or "$ref" in schema else {"type": "object", **schema}


def _moved(schema: Json, to: str) -> Json:
    """The schema with each reference into itself as one into its new place, less annotations."""
    if isinstance(schema, list):
        return [_moved(item, to) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _DROPPED:
            continue
        if key == "$ref" and isinstance(value, str) and value.startswith("#"):
            moved[key] = to + value[1:]
        elif key in _MAPS and isinstance(value, dict):
            moved[key] = {name: _moved(each, to) for name, each in value.items()}
        else:
            moved[key] = value if key in _VALUES else _moved(value, to)
    return moved
