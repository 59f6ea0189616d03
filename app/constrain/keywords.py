"""Owns what the keywords of one schema say about values of one JSON type, old spellings included."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TypeAlias

from app.constrain.formats import regular
from app.constrain.shape import (
    Array,
    Bound,
    Branch,
    Number,
    Object,
    Place,
    Plain,
    Shape,
    Stress,
    Text,
    is_empty,
    refusal,
    unsupported,
)
from app.constrain.work import Work
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


def typed(schema: Schema, place: Place, work: Work) -> list[Branch]:
    """One branch for each type that the schema's own type-bound keywords allow.

    A schema without `type` that has keywords of some types is taken for a schema of these types, as
    Ollama takes it: `{"properties": ...}` asks for an object, though by the letter it allows any number.
    """
    listed = schema.get("type")
    names = _TYPES if listed is None else (listed,) if isinstance(listed, str) else tuple(listed)
    spoken = {name for name, keywords in KEYWORDS.items() if listed is None and keywords & schema.keys()}
    if "number" in names:
        names = tuple(name for name in names if name != "integer")
    branches: list[Branch] = []
    for name in names:
        unsaid = Stress.WEAK if spoken else Stress.OPEN
        stress = Stress.STATED if listed is not None or name in spoken else unsaid
        branches.append(Branch(_shape(name, schema, place, work), stress))
    return branches


def _shape(name: str, schema: Schema, place: Place, work: Work) -> Shape:
    for keyword in _REFUSED.get(name, ()):
        if keyword in schema and (schema[keyword] != {} or keyword == "contains"):
            raise unsupported(place, keyword)
    if name == "null" or name == "boolean":
        return Plain(name)
    return _READERS[name](schema, place, work)


def _number(schema: Schema, place: Place, _: Work, integer: bool = False) -> Number:
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
    schema: Schema, place: Place, inclusive: str, exclusive: str, stricter: Callable[..., Fraction]
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


def _text(schema: Schema, place: Place, work: Work) -> Text:
    low, high = _count(schema, place, "minLength", "maxLength")
    sources = frozenset({regular(schema["pattern"])} if "pattern" in schema else ())
    for source in sources:
        work.check_pattern(source, (*place, "pattern"))
    return Text(low, high, sources, frozenset({schema["format"]} if "format" in schema else ()))


def _count(schema: Schema, place: Place, least: str, most: str) -> tuple[int, int | None]:
    low, high = int(schema.get(least, 0)), schema.get(most)
    if high is not None and low > high:
        raise refusal(place, f'"{least}" is greater than "{most}"')
    return low, None if high is None else int(high)


def _array(schema: Schema, place: Place, _: Work) -> Array:
    low, high = _count(schema, place, "minItems", "maxItems")
    keyword, rest = "prefixItems", "items"
    if isinstance(schema.get("items"), list):  # before 2020-12 a list under `items` was the prefix
        keyword, rest = "items", "additionalItems"
    prefix = tuple(((*place, keyword, at),) for at in range(len(schema.get(keyword, ()))))
    unique = bool(schema.get("uniqueItems"))
    return Array(prefix, ((*place, rest),) if rest in schema else None, low, high, unique)


def _object(schema: Schema, place: Place, work: Work) -> Object:
    low, high = _count(schema, place, "minProperties", "maxProperties")
    for source in schema.get("patternProperties", ()):
        work.check_pattern(source, (*place, "patternProperties", source))
    return Object(
        {name: ((*place, "properties", name),) for name in schema.get("properties", ())},
        tuple(dict.fromkeys(schema.get("required", ()))),
        {source: ((*place, "patternProperties", source),) for source in schema.get("patternProperties", ())},
        ((*place, "additionalProperties"),) if "additionalProperties" in schema else None,
        ((*place, "propertyNames"),) if "propertyNames" in schema else (),
        low,
        high,
    )


_READERS: dict[str, Callable[[Schema, Place, Work], Shape]] = {
    "integer": lambda schema, place, work: _number(schema, place, work, integer=True),
    "number": _number,
    "string": _text,
    "array": _array,
    "object": _object,
}
