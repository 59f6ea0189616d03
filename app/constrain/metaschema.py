"""Owns the check that a schema is one at all: every keyword has a value of its kind.

The rules are those of the metaschema of draft 2020-12, and older spellings that are read as well.
"""

import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

from app.constrain.budget import Budget
from app.constrain.types import JsonPointer, refusal
from app.core.request import Json

_LONGEST = 160
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_ID = re.compile(r"[^#]*#?\Z")
_ANCHOR = re.compile(r"[A-Za-z_][-A-Za-z0-9._]*\Z")

Fault: TypeAlias = tuple[JsonPointer, str] | None
"""Where in the value of a keyword, and what is wrong."""


def check_metaschema(schema: Json, place: JsonPointer, budget: Budget) -> None:
    """Raises `InvalidRequest` for the fault that is least deep."""
    level: list[tuple[Json, JsonPointer]] = [(schema, place)]
    while level:
        inner: list[tuple[Json, JsonPointer]] = []
        for node, at in level:
            budget.spend()
            if isinstance(node, bool):
                continue
            if not isinstance(node, dict):
                raise refusal(at, _no(node, "object", "boolean"))
            for keyword, value in node.items():
                if (rule := _RULES.get(keyword)) and (fault := rule(value)):
                    raise refusal((*at, keyword, *fault[0]), fault[1][:_LONGEST])
                inner += ((child, (*at, keyword, *path)) for child, path in _children(keyword, value, node))
        level = inner


def _children(keyword: str, value: Json, node: dict[str, Json]) -> Iterator[tuple[Json, JsonPointer]]:
    if keyword in _MAPS:
        yield from ((child, (name,)) for name, child in value.items())
    elif keyword in _LISTS or (keyword == "items" and isinstance(value, list)):
        yield from ((child, (at,)) for at, child in enumerate(value))
    elif keyword in _ONES or (keyword == "additionalItems" and isinstance(node.get("items"), list)):
        yield value, ()
    elif keyword == "dependencies":
        yield from ((child, (name,)) for name, child in value.items() if not isinstance(child, list))


def _no(value: Json, *types: str) -> str:
    return f"{value!r:.{_LONGEST}} is not of type {', '.join(map(repr, types))}"


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _string(value: Json) -> Fault:
    return None if isinstance(value, str) else ((), _no(value, "string"))


def _boolean(value: Json) -> Fault:
    return None if isinstance(value, bool) else ((), _no(value, "boolean"))


def _object(value: Json) -> Fault:
    return None if isinstance(value, dict) else ((), _no(value, "object"))


def _array(value: Json) -> Fault:
    return None if isinstance(value, list) else ((), _no(value, "array"))


def _number(value: Json) -> Fault:
    return None if _is_number(value) else ((), _no(value, "number"))


def _above_zero(value: Json) -> Fault:
    if _is_number(value) and value <= 0:
        return (), f"{value!r} is less than or equal to the minimum of 0"
    return _number(value)


def _count(value: Json) -> Fault:
    if not _is_number(value) or value % 1:
        return (), _no(value, "integer")
    return ((), f"{value!r} is less than the minimum of 0") if value < 0 else None


def _limit_or_flag(value: Json) -> Fault:
    """Draft 4 has a flag on the other keyword."""
    return None if isinstance(value, bool) else _number(value)


def _list_of_schemas(value: Json) -> Fault:
    return _array(value) or (None if value else ((), "[] should be non-empty"))


def _names(value: Json) -> Fault:
    if fault := _array(value):
        return fault
    for at, name in enumerate(value):
        if fault := _string(name):
            return (at,), fault[1]
    return ((), "an item comes twice") if len(set(value)) < len(value) else None


def _type(value: Json) -> Fault:
    if isinstance(value, str):
        return None if value in _TYPES else ((), f"{value!r} is no type of JSON")
    if not isinstance(value, list) or not value:
        return (), f"{value!r:.{_LONGEST}} is no type of JSON"
    for at, name in enumerate(value):
        if not isinstance(name, str) or name not in _TYPES:
            return (at,), f"{name!r:.{_LONGEST}} is no type of JSON"
    return ((), "an item comes twice") if len(set(value)) < len(value) else None


def _name_lists(value: Json) -> Fault:
    if fault := _object(value):
        return fault
    faults = ((name, _names(names)) for name, names in value.items())
    return next((((name, *fault[0]), fault[1]) for name, fault in faults if fault), None)


def _dependencies(value: Json) -> Fault:
    if fault := _object(value):
        return fault
    lists = {name: names for name, names in value.items() if isinstance(names, list)}
    return _name_lists(lists)


def _flags(value: Json) -> Fault:
    if fault := _object(value):
        return fault
    return next((((name,), fault[1]) for name, flag in value.items() if (fault := _boolean(flag))), None)


def _matching(expression: re.Pattern[str]) -> Callable[[Json], Fault]:
    def rule(value: Json) -> Fault:
        fault = _string(value)
        return fault or (None if expression.match(value) else ((), f"{value!r} is no name for a schema"))

    return rule


_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LISTS = frozenset({"prefixItems", "allOf", "anyOf", "oneOf"})
_ONES = frozenset(
    {"items", "contains", "additionalProperties", "propertyNames", "if", "then", "else", "not"}
    | {"unevaluatedItems", "unevaluatedProperties", "contentSchema"}
)
_RULES: dict[str, Callable[[Json], Fault]] = {
    "$id": _matching(_ID),
    "$vocabulary": _flags,
    "type": _type,
    "enum": _array,
    "examples": _array,
    "required": _names,
    "dependentRequired": _name_lists,
    "dependencies": _dependencies,
    "multipleOf": _above_zero,
    **dict.fromkeys(_MAPS, _object),
    **dict.fromkeys(_LISTS, _list_of_schemas),
    **dict.fromkeys(("$anchor", "$dynamicAnchor", "$recursiveAnchor"), _matching(_ANCHOR)),
    **dict.fromkeys(("minimum", "maximum"), _number),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), _limit_or_flag),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains"), _count),
    **dict.fromkeys(("minProperties", "maxProperties"), _count),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), _boolean),
    **dict.fromkeys(("$schema", "$ref", "$dynamicRef", "$recursiveRef", "$comment"), _string),
    **dict.fromkeys(("title", "description", "pattern", "format"), _string),
    **dict.fromkeys(("contentEncoding", "contentMediaType"), _string),
}
