"""Owns the types of the intermediate form: a schema is a union of shapes, each of one JSON type.

`intersect` is the conjunction of two shapes.

A child schema is not looked into here. It is an `AllOf`: the places of the raw schemas that must all hold.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from typing import Any, Literal, TypeAlias

from app.core.errors import InvalidRequest
from app.core.request import Json

JsonPointer: TypeAlias = tuple[str | int, ...]
"""Where a schema is, as keys from the root."""

AllOf: TypeAlias = tuple[JsonPointer, ...]
"""Schemas that must all hold; none of them means any value."""

Bound: TypeAlias = tuple[Fraction, bool] | None
"""A limit and whether it is itself excluded; None is no limit."""

JsonType: TypeAlias = Literal["null", "boolean", "number", "string", "array", "object"]


_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$-]*")


@dataclass(frozen=True, slots=True)
class Value:
    """One value, kept by its canonical text so that 1 is 1.0 and true is not 1."""

    key: str
    value: Json = field(compare=False)


@dataclass(frozen=True, slots=True)
class Plain:
    """Null or any boolean."""

    type: Literal["null", "boolean"]


@dataclass(frozen=True, slots=True)
class Number:
    integer: bool = False
    low: Bound = None
    high: Bound = None
    step: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Text:
    low: int = 0
    high: int | None = None
    patterns: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Array:
    """`rest` None: the schema does not say what follows the prefix."""

    prefix: tuple[AllOf, ...] = ()
    rest: AllOf | None = None
    low: int = 0
    high: int | None = None
    unique: bool = False


@dataclass(frozen=True, slots=True)
class Object:
    """`rest` None: the schema does not say what other keys hold. `patterns` maps sources to children."""

    properties: dict[str, AllOf] = field(default_factory=dict[str, AllOf])
    required: tuple[str, ...] = ()
    patterns: dict[str, AllOf] = field(default_factory=dict[str, AllOf])
    rest: AllOf | None = None
    names: AllOf = ()
    low: int = 0
    high: int | None = None


Shape: TypeAlias = Value | Plain | Number | Text | Array | Object


class Specificity(Enum):
    """How explicitly a schema admits one JSON type.

    IMPLIED: by keywords of another type alone; `{"properties": ...}` implies that a string will do.
    OPEN: it says nothing of any type; `{}` and `{"title": "x"}`.
    STATED: by `type` or by the type's own keywords; `{"properties": ...}` states an object.
    """

    IMPLIED = 0
    OPEN = 1
    STATED = 2

    def __and__(self, other: "Specificity") -> "Specificity":
        if Specificity.STATED in (self, other):
            return Specificity.STATED
        return Specificity.IMPLIED if Specificity.IMPLIED in (self, other) else Specificity.OPEN


@dataclass(frozen=True, slots=True)
class Alternative:
    """A shape of a union. An implied one is left out where the union has others."""

    shape: Shape
    specificity: Specificity = Specificity.STATED


def refusal(place: JsonPointer, reason: str) -> InvalidRequest:
    return InvalidRequest(f"invalid JSON schema in format: {_shown(place)}: {reason}")


def unsupported(
    place: JsonPointer, keyword: str, why: str = "is not supported by the constraint engine"
) -> InvalidRequest:
    return refusal(place, f'"{keyword}" {why}')


def _shown(place: JsonPointer) -> str:
    return "$" + "".join(
        f".{key}" if isinstance(key, str) and _IDENTIFIER.fullmatch(key) else f"[{json.dumps(key)}]"
        for key in place
    )


def join(*parts: AllOf) -> AllOf:
    return tuple(dict.fromkeys(place for part in parts for place in part))


def value_of(value: Json) -> Value:
    return Value(json.dumps(_canonical(value), sort_keys=True), value)


def _canonical(value: Json) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_canonical(item) for item in value]
        case dict():
            return {key: _canonical(item) for key, item in value.items()}
        case _:
            return value


def type_of(shape: Shape) -> JsonType:
    match shape:
        case Plain(type):
            return type
        case Number():
            return "number"
        case Text():
            return "string"
        case Array():
            return "array"
        case Object():
            return "object"
        case Value():
            return _value_type(shape.value)


def _value_type(value: Json) -> JsonType:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


Matches: TypeAlias = Callable[[str, str], bool]
"""Whether a text matches a pattern."""


def property_schema(shape: Object, name: str, matches: Matches) -> AllOf | None:
    """What the value under `name` must satisfy; None where the schema does not say."""
    parts = [shape.properties[name]] if name in shape.properties else []
    parts += [child for source, child in shape.patterns.items() if matches(source, name)]
    return join(*parts) if parts else shape.rest


def intersect(one: Shape, other: Shape, matches: Matches) -> Shape | None:
    """The shape of what is in both, None where nothing is. Values are not this function's concern."""
    match one, other:
        case Plain(), Plain():
            return one if one == other else None
        case Number(), Number():
            return _intersect_numbers(one, other)
        case Text(), Text():
            low, high = max(one.low, other.low), _lower(one.high, other.high)
            all_of = Text(low, high, one.patterns | other.patterns, one.formats | other.formats)
            return all_of if high is None or low <= high else None
        case Array(), Array():
            return _intersect_arrays(one, other)
        case Object(), Object():
            return _intersect_objects(one, other, matches)
        case _:
            return None


def _lower(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _intersect_numbers(one: Number, other: Number) -> Number | None:
    lows = [bound for bound in (one.low, other.low) if bound]
    highs = [bound for bound in (one.high, other.high) if bound]
    low = max(lows, default=None)
    high = min(highs, key=lambda bound: (bound[0], not bound[1]), default=None)
    step = one.step or other.step
    if one.step and other.step:
        numerator = math.lcm(one.step.numerator, other.step.numerator)
        step = Fraction(numerator, math.gcd(one.step.denominator, other.step.denominator))
    all_of = Number(one.integer or other.integer, low, high, step)
    return None if is_empty(all_of) else all_of


def is_empty(number: Number) -> bool:
    if number.low is None or number.high is None:
        return False
    (low, low_open), (high, high_open) = number.low, number.high
    return low > high or (low == high and (low_open or high_open))


def _intersect_arrays(one: Array, other: Array) -> Array | None:
    low, high = max(one.low, other.low), _lower(one.high, other.high)
    if high is not None and low > high:
        return None
    longest = max(len(one.prefix), len(other.prefix))
    prefix = tuple(join(_item(one, at) or (), _item(other, at) or ()) for at in range(longest))
    return Array(prefix, _join_schemas(one.rest, other.rest), low, high, one.unique or other.unique)


def _item(array: Array, at: int) -> AllOf | None:
    return array.prefix[at] if at < len(array.prefix) else array.rest


def _join_schemas(one: AllOf | None, other: AllOf | None) -> AllOf | None:
    return None if one is None and other is None else join(one or (), other or ())


def _intersect_objects(one: Object, other: Object, matches: Matches) -> Object | None:
    low, high = max(one.low, other.low), _lower(one.high, other.high)
    if high is not None and low > high:
        return None
    names = dict.fromkeys([*one.properties, *other.properties])
    sources = dict.fromkeys([*one.patterns, *other.patterns])
    return Object(
        {
            name: join(property_schema(one, name, matches) or (), property_schema(other, name, matches) or ())
            for name in names
        },
        tuple(dict.fromkeys([*one.required, *other.required])),
        {
            source: join(
                one.patterns.get(source, one.rest or ()), other.patterns.get(source, other.rest or ())
            )
            for source in sources
        },
        _join_schemas(one.rest, other.rest),
        join(one.names, other.names),
        low,
        high,
    )
