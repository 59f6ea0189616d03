"""What a Go template sees of a request: the values behind its fields, and how each of them is printed.

A `GoStruct` is read by Go's field names (`.Function.Name`) and written as the JSON that Ollama writes for
it; keys that Go keeps in a map are sorted, since Go sorts them whenever it prints or ranges over a map.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.core.request import Json, Message, PastToolCall

_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})
_TYPESCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}
_EXACT_FLOAT = 1e21


class GoObject(dict[str, Any]):
    """An object that prints as JSON."""


class GoList(list[Any]):
    """A list that prints as JSON."""


class GoStruct(GoObject):
    """An object whose JSON keys differ from the field names that templates use."""

    def __init__(self, fields: Mapping[str, Any], written: Iterable[tuple[str, Any]] | None = None) -> None:
        super().__init__(fields if written is None else written)
        self._fields = fields

    def __gotemplate_lookup__(self, field: str) -> Any:
        return self._fields[field]


class TypeNames(list[str]):
    """The `type` of a schema: one name prints bare, several as Go prints a list."""


def to_json(value: Any) -> str:
    """Compact JSON with the characters escaped that Go escapes."""
    written: str = json.dumps(_writable(value), ensure_ascii=False, separators=(",", ":"), default=_encoded)
    return written.translate(_ESCAPES)


def shown(value: Any) -> Any:
    """What an action prints: JSON for a request's objects, nothing for what is missing."""
    if value is None:
        return ""
    if isinstance(value, GoObject | GoList):
        return to_json(value)
    if isinstance(value, TypeNames) and len(value) == 1:
        return value[0]
    return value


def to_typescript(value: Any) -> str:
    """The TypeScript type of a tool's property."""
    if not isinstance(value, GoStruct):
        return "any"
    if value.get("anyOf"):
        return " | ".join(to_typescript(choice) for choice in value["anyOf"])
    names = value.get("type") or ["any"]
    return " | ".join(_TYPESCRIPT.get(name, "any") for name in names)


def message_value(message: Message) -> GoStruct:
    """A message as `.Messages` holds it."""
    return GoStruct(
        {
            "Role": message.role,
            "Content": message.text,
            "Thinking": message.thinking,
            "Images": list(message.images),
            "ToolCalls": [_call_value(index, call) for index, call in enumerate(message.tool_calls)],
            "ToolName": message.tool_name,
            "ToolCallID": message.tool_call_id,
        }
    )


def tool_values(tools: Sequence[Mapping[str, Json]]) -> GoList:
    """The request's tools as `.Tools` holds them."""
    return GoList(_tool_value(tool) for tool in tools)


def _call_value(index: int, call: PastToolCall) -> GoStruct:
    arguments = GoObject(_sorted(dict(call.arguments)))
    function = GoStruct({"Index": index, "Name": call.name, "Arguments": arguments})
    return GoStruct({"ID": call.id, "Function": function})


def _tool_value(tool: Mapping[str, Json]) -> GoStruct:
    function: Mapping[str, Json] = tool.get("function") or {}
    parameters = _parameters_value(function.get("parameters") or {})
    name, description = function.get("name", ""), function.get("description", "")
    described = GoStruct(
        {"Name": name, "Description": description, "Parameters": parameters},
        [("name", name), ("description", description), ("parameters", parameters)],
    )
    kind, items = tool.get("type", ""), _sorted(tool.get("items"))
    return GoStruct(
        {"Type": kind, "Items": items, "Function": described},
        [("type", kind), *_present(items=items), ("function", described)],
    )


def _parameters_value(schema: Mapping[str, Json]) -> GoStruct:
    properties = GoObject(
        (name, _property_value(value)) for name, value in sorted((schema.get("properties") or {}).items())
    )
    kind, required = schema.get("type", ""), schema.get("required")
    defs, items = _sorted(schema.get("$defs")), _sorted(schema.get("items"))
    return GoStruct(
        {"Type": kind, "Defs": defs, "Items": items, "Required": required, "Properties": properties},
        [
            ("type", kind),
            *_present(**{"$defs": defs}, items=items, required=required),
            ("properties", properties),
        ],
    )


def _property_value(schema: Mapping[str, Json]) -> GoStruct:
    kind = schema.get("type") or []
    types = TypeNames([kind] if isinstance(kind, str) else kind)
    choices = [_property_value(choice) for choice in schema.get("anyOf") or ()]
    nested = {name: _property_value(value) for name, value in (schema.get("properties") or {}).items()}
    enum, items = _sorted(schema.get("enum")), _sorted(schema.get("items"))
    description, required = schema.get("description", ""), schema.get("required")
    return GoStruct(
        {
            "AnyOf": choices,
            "Type": types,
            "Items": items,
            "Description": description,
            "Enum": enum,
            "Properties": GoObject(nested),
            "Required": required,
        },
        _present(
            anyOf=choices,
            type=types,
            items=items,
            description=description,
            enum=enum,
            properties=GoObject(nested),
            required=required,
        ),
    )


def _present(**values: Any) -> list[tuple[str, Any]]:
    """The keys that Go does not omit as empty."""
    return [(name, value) for name, value in values.items() if value]


def _sorted(value: Json) -> Json:
    """A JSON value as Go decodes it into `any`: keys in order, whole numbers without a fraction."""
    if isinstance(value, dict):
        return {key: _sorted(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [_sorted(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOAT:
        return int(value)
    return value


def _writable(value: Any) -> Any:
    if isinstance(value, TypeNames):
        return value[0] if len(value) == 1 else list(value)
    if isinstance(value, dict):
        return {key: _writable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_writable(inner) for inner in value]
    return value


def _encoded(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no JSON form")
