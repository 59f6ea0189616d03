"""Tools as a request declares them, cut down to the keys that a template may see (docs/reference 7.1).

Key order is Ollama's, property order the client's. A type that is left out is written as `function` or
`object`, and absent properties as none, so that a template which reads them finds what it expects.
"""

from collections.abc import Callable
from typing import Any

from app.core.errors import InvalidRequest
from app.core.request import Json
from app.golang.types import ANY, STRING, Kind, list_of, struct, unmarshaler

_NOT_AN_OBJECT = "Value looks like object, but can't find closing '}' symbol"
_STRINGS = list_of(STRING)
_ANY_LIST = list_of(ANY)


def _read_arguments(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise InvalidRequest(_NOT_AN_OBJECT)
    return value


ARGUMENTS: Kind[dict[str, Json]] = Kind("api.ToolCallFunctionArguments", _read_arguments, dict[str, Json])


def _read_type(value: Json) -> str | list[str]:
    if isinstance(value, str):
        return value
    names = _STRINGS.read(value)
    return names[0] if len(names) == 1 else names


def _read_properties(value: Json) -> dict[str, Json]:
    found = _read_arguments(value)
    return {name: _PROPERTY.zero() if item is None else _PROPERTY.read(item) for name, item in found.items()}


def _read_property(value: Json) -> dict[str, Json]:
    return _PROPERTY.read(value)


def _without_empty(*order: str) -> Callable[..., dict[str, Json]]:
    """Makes an object of these keys, in this order, less the empty texts and lists."""

    def make(**found: Any) -> dict[str, Json]:
        return {key: found[key] for key in order if found.get(key, "") not in ("", [])}

    return make


_PROPERTIES = unmarshaler(
    "api.ToolPropertiesMap", Kind("api.ToolPropertiesMap", _read_properties, dict[str, Json])
)

_PROPERTY: Kind[dict[str, Json]] = struct(
    "ToolProperty",
    _without_empty("anyOf", "type", "items", "description", "enum", "properties", "required"),
    {
        "anyOf": list_of(Kind("api.ToolProperty", _read_property, dict[str, Json])),
        "type": Kind("api.PropertyType", _read_type, str),
        "items": ANY,
        "description": STRING,
        "enum": _ANY_LIST,
        "properties": _PROPERTIES,
        "required": _STRINGS,
    },
)


def _make_parameters(
    *, type: str = "", properties: dict[str, Json] | None = None, **found: Json
) -> dict[str, Json]:
    kept = _without_empty("$defs", "items", "required")(**found)
    return {"type": type or "object", **kept, "properties": properties or {}}


PARAMETERS: Kind[dict[str, Json]] = struct(
    "ToolFunctionParameters",
    _make_parameters,
    {
        "type": STRING,
        "$defs": ANY,
        "items": ANY,
        "required": _STRINGS,
        "properties": _PROPERTIES,
    },
)
"""What a tool takes: a JSON Schema, less the keys that no template sees."""


def _make_function(
    *, name: str = "", description: str = "", parameters: dict[str, Json] | None = None
) -> dict[str, Json]:
    described = {"description": description} if description else {}
    return {"name": name, **described, "parameters": parameters or _make_parameters()}


def _make_tool(*, type: str = "", function: dict[str, Json] | None = None) -> dict[str, Json]:
    return {"type": type or "function", "function": function or _make_function()}


TOOL: Kind[dict[str, Json]] = struct(
    "Tool",
    _make_tool,
    {
        "type": STRING,
        "function": struct(
            "ToolFunction",
            _make_function,
            {
                "name": STRING,
                "description": STRING,
                "parameters": PARAMETERS,
            },
        ),
    },
)
