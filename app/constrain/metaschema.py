"""Owns the check that a schema is one at all: every keyword has a value of its kind."""

from collections.abc import Iterable
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend

from app.constrain.types import JsonPointer, refusal
from app.core.request import Json


def _distinct(_: Any, wanted: bool, items: Any, __: Any) -> Iterable[ValidationError]:
    """jsonschema's own compares each item with each other."""
    if wanted and isinstance(items, list) and len({repr(item) for item in items}) < len(items):
        yield ValidationError("an item comes twice")


_RULES = extend(Draft202012Validator, {"uniqueItems": _distinct})(Draft202012Validator.META_SCHEMA)
_CONTAINERS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LONGEST = 160
_MAX_FAULTS = 20
"""To choose the one from that is told."""


def check_metaschema(schema: Json, place: JsonPointer) -> None:
    """Against the rules of draft 2020-12 and the spellings of older drafts that are read as well."""
    errors = list(_faults(schema, place))
    if errors:
        worst, at = errors[0]
        raise refusal((*at, *worst.absolute_path), _said(worst))


def _faults(schema: Json, place: JsonPointer) -> Iterable[tuple[ValidationError, JsonPointer]]:
    modern: list[ValidationError] = []
    for error in _RULES.iter_errors(schema):
        path = tuple(error.absolute_path)
        if not _is_older_spelling(error, path):
            modern.append(error)
            if len(modern) == _MAX_FAULTS:
                break
        elif isinstance(error.instance, list):
            yield from _older_items(schema, path, place)
    if modern:
        yield best_match(modern), place


def _is_older_spelling(error: ValidationError, path: JsonPointer) -> bool:
    if not path or (len(path) > 1 and path[-2] in _CONTAINERS):
        return False
    keyword = path[len(path) - 1]
    if keyword in ("exclusiveMinimum", "exclusiveMaximum"):
        return isinstance(error.instance, bool)
    return keyword == "items" and isinstance(error.instance, list)


def _older_items(
    schema: Json, path: JsonPointer, place: JsonPointer
) -> Iterable[tuple[ValidationError, JsonPointer]]:
    """The schemas of a tuple as it was written before 2020-12, which the newest rules do not look into."""
    around: Any = schema
    for key in path[:-1]:
        around = around[key]
    for at, item in enumerate(around["items"]):
        yield from _faults(item, (*place, *path, at))
    if "additionalItems" in around:
        yield from _faults(around["additionalItems"], (*place, *path[:-1], "additionalItems"))


def _said(error: ValidationError) -> str:
    if error.absolute_path and error.absolute_path[-1] == "type":
        return f"{error.instance!r} is no type of JSON"[:_LONGEST]
    return error.message[:_LONGEST]
