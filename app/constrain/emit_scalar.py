"""Owns how numbers, strings and single values are written down for the grammar."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import TypeAlias, overload

from app.constrain import numbers, string_formats
from app.constrain.budget import Budget
from app.constrain.types import Bound, JsonPointer, Number, Text, refusal, unsupported
from app.core.request import Json

Emitted: TypeAlias = dict[str, Json] | bool
"""A schema of few keywords, each of which `grammar` writes; False where nothing can satisfy it."""

_MAX_MULTIPLES = 1000
_BOUNDS_STEPS = 100
"""What it costs to write decimals between bounds."""

_MAX_LENGTH = 1_000_000
"""No answer comes near it, so that as a limit it takes nothing away."""

_MAX_PATTERNS = 4
"""Of the same string: what llguidance needs to find out whether they have a text in common grows steeply."""


def emit_value(value: Json) -> Emitted:
    """Just this value. Arrays and objects are taken apart, so that white space in them is free."""
    match value:
        case list():
            items = [emit_value(item) for item in value]
            closed: dict[str, Json] = {"type": "array", "items": False}
            return closed | ({"prefixItems": items, "minItems": len(items)} if items else {})
        case dict():
            properties = {key: emit_value(item) for key, item in value.items()}
            closed = {"type": "object", "additionalProperties": False}
            return closed | ({"properties": properties, "required": list(properties)} if properties else {})
        case float() if value.is_integer():
            return {"const": int(value)}
        case _:
            return {"const": value}


def emit_number(number: Number, place: JsonPointer, budget: Budget) -> Emitted:
    if number.step is not None:
        return _emit_multiples(number, number.step, place, budget)
    if number.integer:
        low, high = _whole(number.low, 1), _whole(number.high, -1)
        if low is not None and high is not None and low > high:
            return False
        return {"type": "number", "all": [numbers.integers(low, high)]}
    if number.low is None and number.high is None:
        return {"type": "number", "all": [numbers.NUMBER]}
    budget.spend(_BOUNDS_STEPS)
    within = _decimals(number)
    return False if within is None else {"type": "number", "all": [within]}


def _decimals(number: Number) -> str | None:
    low, above = number.low or (None, False)
    high, below = number.high or (None, False)
    return numbers.decimals(low, high, above=above, below=below)


def _emit_multiples(number: Number, step: Fraction, place: JsonPointer, budget: Budget) -> Emitted:
    if number.low and number.high and (number.high[0] - number.low[0]) / step <= _MAX_MULTIPLES:
        return _listed_multiples(number, number.low, number.high, step, budget)
    ends = numbers.multiples(step)
    if ends is None:
        reason = (
            "is supported for divisors of 1 and of 1000, and for others "
            f"between bounds at most {_MAX_MULTIPLES} multiples apart"
        )
        raise unsupported(place, "multipleOf", reason)
    within = emit_number(
        replace(number, integer=number.integer or step.denominator == 1, step=None), place, budget
    )
    if isinstance(within, bool):
        return within
    bounded = within["all"] if within["all"] != [numbers.NUMBER] else [numbers.PLAIN]
    return {"type": "number", "all": [*bounded, ends]}


def _listed_multiples(
    number: Number, low: tuple[Fraction, bool], high: tuple[Fraction, bool], step: Fraction, budget: Budget
) -> Emitted:
    first, last = _whole((low[0] / step, low[1]), 1), _whole((high[0] / step, high[1]), -1)
    budget.spend(2 * max(0, last - first + 1))
    values = [step * at for at in range(first, last + 1)]
    if number.integer:
        values = [value for value in values if value.denominator == 1]
    return {"enum": [int(v) if v.denominator == 1 else float(v) for v in values]} if values else False


@overload
def _whole(bound: tuple[Fraction, bool], side: int) -> int: ...
@overload
def _whole(bound: Bound, side: int) -> int | None: ...
def _whole(bound: Bound, side: int) -> int | None:
    """The first integer within the bound, seen from above (`side` 1) or from below (-1)."""
    if bound is None:
        return None
    value, excluded = bound[0] * side, bound[1]
    return side * (math.floor(value) + 1 if excluded else math.ceil(value))


def emit_text(text: Text, place: JsonPointer, budget: Budget) -> Emitted:
    """A `pattern` stands and a `format` beside it yields: it is an annotation."""
    if text.low > _MAX_LENGTH:
        raise refusal(place, f'"minLength" is supported up to {_MAX_LENGTH}')
    high = None if text.high is None or text.high > _MAX_LENGTH else text.high
    lengths: dict[str, Json] = {"minLength": text.low} if text.low else {}
    lengths |= {} if high is None else {"maxLength": high}
    sources = sorted(text.patterns) or [
        string_formats.pattern(name) for name in sorted(text.formats) if string_formats.enforced(name)
    ]
    if len(sources) > _MAX_PATTERNS:
        raise unsupported(place, "pattern", f"is supported {_MAX_PATTERNS} times for the same string")
    if not sources:
        return {"type": "string", **lengths}
    emitted: dict[str, Json] = {
        "type": "string",
        "allOf": [{"pattern": source} for source in sources],
        **lengths,
    }
    budget.check_string(emitted, place)
    return emitted
