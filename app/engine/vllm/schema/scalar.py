"""Owns how numbers, strings and single values are spelled as schemas that xgrammar honours."""

import math
import sys
from fractions import Fraction
from typing import TypeAlias, overload

from app.core.request import Json
from app.engine.vllm.schema import format as formats
from app.engine.vllm.schema.keywords import exact
from app.engine.vllm.schema.language import ANY_CHAR, MAX_COUNT, Node, Repeat, bounded
from app.engine.vllm.schema.pattern import PatternError, parse
from app.engine.vllm.schema.regex import spell
from app.engine.vllm.schema.shape import Bound, Number, Place, Text, refusal, unsupported

Spelled: TypeAlias = dict[str, Json] | bool
"""A schema for xgrammar; False where nothing can satisfy it."""

_INT64 = (-(2**63), 2**63 - 1)
_GRID = 10**6
"""xgrammar writes bounded numbers with at most six decimals."""

_FINE = 2**30
"""From here on two neighbouring decimals of the grid may be one and the same float."""

_MAX_MULTIPLES = 1000


def spell_value(value: Json, place: Place) -> Json:
    """Just this value. Arrays and objects are taken apart, so that white space in them is free."""
    match value:
        case list():
            items = [spell_value(item, place) for item in value]
            closed: dict[str, Json] = {"type": "array", "items": False}
            return closed | ({"prefixItems": items, "minItems": len(items)} if items else {})
        case dict():
            properties = {key: spell_value(item, place) for key, item in value.items()}
            closed = {"type": "object", "additionalProperties": False}
            return closed | ({"properties": properties, "required": list(properties)} if properties else {})
        case float() if not value.is_integer():
            return _spell_decimal(value)
        case int() | float() if not isinstance(value, bool):
            return {"const": _whole_number(int(value), place)}
        case _:
            return {"const": value}


def _spell_decimal(value: float) -> Json:
    if abs(value) < _FINE and (exact(value) * _GRID).denominator == 1:
        # As a constant xgrammar would write 0.1 with all its seventeen digits.
        return {"type": "number", "minimum": value, "maximum": value}
    return {"const": value}


def _whole_number(value: int, place: Place) -> Json:
    """xgrammar reads integers beyond 64 bits as floats."""
    if _INT64[0] <= value <= _INT64[1]:
        return value
    if abs(value) > sys.float_info.max or int(float(value)) != value:
        raise refusal(place, f"the integer {value} is beyond 64 bits")
    return float(value)


def spell_number(number: Number, place: Place) -> Spelled:
    if number.integer or (number.step is not None and number.step.denominator == 1):
        low, high = _whole(number.low, 1), _whole(number.high, -1)
        return _spell_integer(low, high, 1 if number.step is None else number.step.numerator, place)
    if number.step is not None:
        raise unsupported(place, "multipleOf", "is supported only for whole numbers")
    spelled: dict[str, Json] = {"type": "number"}
    for bound, side, keyword in ((number.low, 1, "inimum"), (number.high, -1, "aximum")):
        if bound is not None:
            limit, excluded = _float_bound(bound, side, place)
            spelled[f"exclusiveM{keyword}" if excluded else f"m{keyword}"] = limit
    if number.low and number.high and _whole(number.low, 1, _GRID) > _whole(number.high, -1, _GRID):
        raise refusal(place, "no number of at most six decimals lies between the minimum and the maximum")
    return spelled


@overload
def _whole(bound: None, side: int, scale: int = 1) -> None: ...
@overload
def _whole(bound: tuple[Fraction, bool], side: int, scale: int = 1) -> int: ...
@overload
def _whole(bound: Bound, side: int, scale: int = 1) -> int | None: ...
def _whole(bound: Bound, side: int, scale: int = 1) -> int | None:
    """The first integer within the bound times `scale`, seen from above (`side` 1) or from below (-1)."""
    if bound is None:
        return None
    scaled, excluded = bound[0] * scale * side, bound[1]
    return side * (math.floor(scaled) + 1 if excluded else math.ceil(scaled))


def _float_bound(bound: tuple[Fraction, bool], side: int, place: Place) -> tuple[float, bool]:
    """The bound as a float that lets nothing through that the bound does not."""
    value, excluded = bound
    try:
        limit = float(value)
    except OverflowError as error:
        raise refusal(place, "a bound is beyond the range of a float") from error
    if (exact(limit) - value) * side < 0 or (excluded and abs(limit) >= _FINE):
        return math.nextafter(limit, side * math.inf), False
    return limit, excluded and exact(limit) == value


def _spell_integer(low: int | None, high: int | None, step: int, place: Place) -> Spelled:
    if step > 1:
        return _spell_multiples(low, high, step, place)
    if (low is not None and low > _INT64[1]) or (high is not None and high < _INT64[0]):
        raise refusal(place, "a bound is beyond 64 bits")
    if low is not None and high is not None and low >= high:
        return {"const": low} if low == high else False
    spelled: dict[str, Json] = {"type": "integer"}
    if low is not None:
        spelled["minimum"] = max(low, _INT64[0])
    if high is not None:
        spelled["maximum"] = min(high, _INT64[1])
    return spelled


def _spell_multiples(low: int | None, high: int | None, step: int, place: Place) -> Spelled:
    if low is None or high is None or (high - low) // step > _MAX_MULTIPLES:
        reason = f"is supported only between bounds at most {_MAX_MULTIPLES} multiples apart"
        raise unsupported(place, "multipleOf", reason)
    multiples = [_whole_number(multiple, place) for multiple in range(-(-low // step) * step, high + 1, step)]
    return {"enum": multiples} if multiples else False


def spell_text(text: Text, place: Place) -> Spelled:
    if text == Text(formats=text.formats) and not any(map(formats.enforced, text.formats)):
        return {"type": "string"}
    if text.high == 0 and text.low == 0 and not text.patterns:
        return {"const": ""}
    source = _spell(language(text, place), place, escapes=True, trusted=not text.patterns)
    return False if source is None else {"type": "string", "pattern": source}


def spell_keys(node: Node, place: Place) -> str | None:
    """The pattern of property names, without those that need an escape; None where none is left."""
    return _spell(node, place, escapes=False, trusted=False)


def _spell(node: Node, place: Place, *, escapes: bool, trusted: bool) -> str | None:
    try:
        return spell(node, escapes=escapes, trusted=trusted)
    except PatternError as error:
        raise refusal(place, f"the strings cannot be described: {error}") from error


def language(text: Text, place: Place) -> Node:
    """The strings as a pattern. A `pattern` stands and a `format` beside it yields: it is an annotation."""
    if text.low > MAX_COUNT:
        raise refusal(place, f'"minLength" is supported up to {MAX_COUNT}')
    if len(text.patterns) > 1:
        raise unsupported(place, "pattern", "is supported only once for the same string")
    for source in text.patterns:
        fitting = bounded(parse(source), text.low, text.high)
        if fitting is None:
            reason = "cannot be combined with the length bounds: give the length in the pattern alone"
            raise unsupported(place, "pattern", reason)
        return fitting
    return _formatted(text, place)


def _formatted(text: Text, place: Place) -> Node:
    names = [name for name in text.formats if formats.enforced(name)]
    if len(names) > 1:
        raise unsupported(place, "format", "is supported only once for the same string")
    for name in names:
        fitting = formats.pattern(name, text.low, text.high)
        if fitting is None:
            raise unsupported(place, "format", f"{name!r} cannot be combined with the length bounds")
        return fitting
    # No answer comes near the cap, so that it takes nothing away.
    return Repeat(ANY_CHAR, text.low, None if text.high is None else min(text.high, MAX_COUNT))
