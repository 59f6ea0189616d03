"""Owns what the keywords of one schema say about values of one JSON type, old spellings included."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TypeAlias

from app.constrain.budget import Budget
from app.constrain.types import (
    AllOf,
    Alternative,
    Array,
    Bound,
    JsonPointer,
    Number,
    Object,
    Plain,
    Shape,
    Specificity,
    Text,
    is_empty,
    refusal,
    unsupported,
)
from app.core.request import Json

Schema: TypeAlias = Mapping[str, Json]

KEYWORDS: dict[str, frozenset[str]] = {
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "array": frozenset(
        {"items", "prefixItems", "additionalItems", "unevaluatedItems", "minItems", "maxItems"}
        | {"uniqueItems", "contains"}
    ),
    "object": frozenset(
        {"properties", "required", "additionalProperties", "unevaluatedProperties", "patternProperties"}
        | {"propertyNames", "minProperties", "maxProperties"}
        | {"dependentRequired", "dependentSchemas", "dependencies"}
    ),
}
"""What makes a schema without `type` one for that type."""

_REFUSED = {"array": ("contains",), "object": ("dependentRequired", "dependentSchemas", "dependencies")}
_TYPES = ("object", "array", "string", "number", "boolean", "null")


def typed(schema: Schema, place: JsonPointer, budget: Budget) -> list[Alternative]:
    """One alternative for each type that the schema's own type-bound keywords allow.

    A schema without `type` that has keywords of some types is taken for a schema of these types, as
    Ollama takes it: `{"properties": ...}` asks for an object, though by the letter it allows any number.
    """
    listed = schema.get("type")
    names = _TYPES if listed is None else (listed,) if isinstance(listed, str) else tuple(listed)
    spoken = {name for name, keywords in KEYWORDS.items() if listed is None and keywords & schema.keys()}
    if "number" in names:
        names = tuple(name for name in names if name != "integer")
    alternatives: list[Alternative] = []
    for name in names:
        unsaid = Specificity.IMPLIED if spoken else Specificity.OPEN
        specificity = Specificity.STATED if listed is not None or name in spoken else unsaid
        alternatives.append(Alternative(_shape(name, schema, place, budget), specificity))
    return alternatives


def _shape(name: str, schema: Schema, place: JsonPointer, budget: Budget) -> Shape:
    for keyword in _REFUSED.get(name, ()):
        if keyword in schema and (schema[keyword] != {} or keyword == "contains"):
            raise unsupported(place, keyword)
    if name == "null" or name == "boolean":
        return Plain(name)
    return _READERS[name](schema, place, budget)


def _number(schema: Schema, place: JsonPointer, _: Budget, integer: bool = False) -> Number:
    step = schema.get("multipleOf")
    number = Number(
        integer,
        _bound(schema, place, "minimum", "exclusiveMinimum", max),
        _bound(schema, place, "maximum", "exclusiveMaximum", min),
        None if step is None else exact(step),
    )
    if is_empty(number):
        raise refusal(place, "no number lies between the minimum and the maximum")
    return number


def _bound(
    schema: Schema, place: JsonPointer, inclusive: str, exclusive: str, stricter: Callable[..., Fraction]
) -> Bound:
    limit, strict = schema.get(inclusive), schema.get(exclusive)
    if isinstance(strict, bool):  # draft 4: a flag on the other keyword
        if strict and limit is None:
            raise unsupported(place, exclusive, f'needs "{inclusive}" where it is a boolean')
        return None if limit is None else (exact(limit), strict)
    if strict is None:
        return None if limit is None else (exact(limit), False)
    if limit is None:
        return exact(strict), True
    tighter = stricter(exact(limit), exact(strict))
    return tighter, tighter == exact(strict)


def exact(number: float) -> Fraction:
    """The number as it was written: 0.1 is one tenth."""
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))


def _text(schema: Schema, place: JsonPointer, budget: Budget) -> Text:
    low, high = _count(schema, place, "minLength", "maxLength")
    at = (*place, "pattern")
    sources = frozenset({budget.pattern(schema["pattern"], at)} if "pattern" in schema else ())
    return Text(low, high, sources, frozenset({schema["format"]} if "format" in schema else ()))


def _count(schema: Schema, place: JsonPointer, least: str, most: str) -> tuple[int, int | None]:
    low, high = int(schema.get(least, 0)), schema.get(most)
    if high is not None and low > high:
        raise refusal(place, f'"{least}" is greater than "{most}"')
    return low, None if high is None else int(high)


def _array(schema: Schema, place: JsonPointer, _: Budget) -> Array:
    low, high = _count(schema, place, "minItems", "maxItems")
    keyword, rest = "prefixItems", "items"
    if isinstance(schema.get("items"), list):  # before 2020-12 a list under `items` was the prefix
        keyword, rest = "items", "additionalItems"
    prefix = tuple(((*place, keyword, at),) for at in range(len(schema.get(keyword, ()))))
    unique = bool(schema.get("uniqueItems"))
    return Array(prefix, ((*place, rest),) if rest in schema else None, low, high, unique)


def _object(schema: Schema, place: JsonPointer, budget: Budget) -> Object:
    low, high = _count(schema, place, "minProperties", "maxProperties")
    patterns: dict[str, AllOf] = {}
    for source in schema.get("patternProperties", ()):
        child = (*place, "patternProperties", source)
        pattern = budget.pattern(source, child)
        patterns[pattern] = (*patterns.get(pattern, ()), child)
    return Object(
        {name: ((*place, "properties", name),) for name in schema.get("properties", ())},
        tuple(dict.fromkeys(schema.get("required", ()))),
        patterns,
        ((*place, "additionalProperties"),) if "additionalProperties" in schema else None,
        ((*place, "propertyNames"),) if "propertyNames" in schema else (),
        low,
        high,
    )


_READERS: dict[str, Callable[[Schema, JsonPointer, Budget], Shape]] = {
    "integer": lambda schema, place, budget: _number(schema, place, budget, integer=True),
    "number": _number,
    "string": _text,
    "array": _array,
    "object": _object,
}
