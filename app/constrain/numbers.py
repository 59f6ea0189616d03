"""Owns how numbers are written: regular expressions of decimals within bounds, with an end to their digits.

A number without bounds may have an exponent; one with bounds is written out.
"""

from fractions import Fraction
from functools import lru_cache

DIGITS = 19
"""Before the point; 64 bits hold them."""

DECIMALS = 20
"""After it: what the shortest text of a float that needs no exponent has at most."""

_LARGEST = 10**DIGITS - 1
_SCALE = 10**DECIMALS
_MAX_ENDINGS = 1000
_TENS = {Fraction(10**digits): digits for digits in range(1, DECIMALS + 1)}

INTEGER = rf"-?(0|[1-9][0-9]{{0,{DIGITS - 1}}})"
_FRACTION = rf"(\.[0-9]{{1,{DECIMALS}}})?"
PLAIN = f"{INTEGER}{_FRACTION}"
NUMBER = (
    rf"{INTEGER}{_FRACTION}([eE][+-]?[0-9]{{1,2}})?"
    # One digit before the point, so that a float holds it.
    rf"|-?[1-9]{_FRACTION}[eE](\+?(30[0-7]|[12][0-9]{{2}})|-(30[0-7]|[12][0-9]{{2}}))"
)


@lru_cache(maxsize=256)
def integers(low: int | None, high: int | None) -> str:
    """Whole numbers from `low` to `high`, which are in order; None reaches as far as `DIGITS` do."""
    if low is None and high is None:
        return INTEGER
    low, high = _limits(low, high, _LARGEST)
    parts: list[str] = []
    if low < 0:
        parts.append("-" + _whole(max(0, -high), -low))
    if high >= 0:
        parts.append(_whole(max(0, low), high))
    return _either(parts)


@lru_cache(maxsize=256)
def decimals(low: Fraction | None, high: Fraction | None, *, above: bool, below: bool) -> str | None:
    """Numbers between the bounds, which `above` and `below` exclude themselves; None where there are none."""
    first, last = _limits(
        None if low is None else _scaled(low, 1, above),
        None if high is None else _scaled(high, -1, below),
        _LARGEST * _SCALE,
    )
    if first > last:
        return None
    parts: list[str] = []
    if first < 0:
        parts.append("-" + _decimal(max(0, -last), -first))
    if last >= 0:
        parts.append(_decimal(max(0, first), last))
    return _either(parts)


def multiples(step: Fraction) -> str | None:
    """Multiples of `step` as an expression to be met with another; None where their ends are too many."""
    if step.denominator == 1:
        return _endings(step.numerator)
    parts = 1 / step
    if parts in _TENS:
        return rf"-?[0-9]+(\.[0-9]{{1,{_TENS[parts]}}})?"
    if parts.denominator != 1 or parts > _MAX_ENDINGS or _SCALE % parts.numerator:
        return None
    ends = [
        str(_SCALE * number // parts.numerator).rjust(DECIMALS, "0").rstrip("0")
        for number in range(1, int(parts))
    ]
    return rf"-?[0-9]+(\.(0|({'|'.join(ends)})0{{0,3}}))?"


def _endings(step: int) -> str | None:
    """The last digits of the multiples of a divisor of ten, a hundred or a thousand tell them."""
    for digits in range(1, 4):
        if 10**digits % step == 0:
            ends = range(0, 10**digits, step)
            long, short = ([str(end).rjust(digits, "0") for end in ends], [str(end) for end in ends])
            return f"-?([0-9]*({'|'.join(long)})|{'|'.join(short)})"
    return None


def _scaled(bound: Fraction, side: int, excluded: bool) -> int:
    """The first number of `DECIMALS` decimals within the bound, as a whole number."""
    value = bound * _SCALE * side
    whole = -(-value.numerator // value.denominator)
    return side * (whole + 1 if excluded and whole == value else whole)


def _limits(low: int | None, high: int | None, largest: int) -> tuple[int, int]:
    if low is None:
        low = -largest if high is None or high >= -largest else high * 10
    if high is None:
        high = largest if low <= largest else low * 10
    return low, high


def _whole(low: int, high: int) -> str:
    shortest, longest = len(str(low)), len(str(high))
    parts: list[str] = []
    whole: list[int] = []
    for length in range(shortest, longest + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        last = min(high, 10**length - 1)
        if length > 1 and first == 10 ** (length - 1) and last == 10**length - 1:
            whole.append(length)
        else:
            parts.append(_span(str(first), str(last)))
    if whole:
        parts.append(f"[1-9][0-9]{{{whole[0] - 1},{whole[-1] - 1}}}")
    return _either(parts)


def _span(low: str, high: str) -> str:
    """Digits between two rows of the same length."""
    if low == high:
        return low
    if len(low) == 1:
        return f"[{low}-{high}]"
    rest = len(low) - 1
    if set(low) == {"0"} and set(high) == {"9"}:
        return f"[0-9]{{{rest + 1}}}"
    if low[0] == high[0]:
        return low[0] + _span(low[1:], high[1:])
    parts = [low[0] + _span(low[1:], "9" * rest)]
    if int(high[0]) - int(low[0]) > 1:
        parts.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}][0-9]{{{rest}}}")
    return _either([*parts, high[0] + _span("0" * rest, high[1:])])


def _decimal(low: int, high: int) -> str:
    (first, least), (last, most) = divmod(low, _SCALE), divmod(high, _SCALE)
    zeros, nines = "0" * DECIMALS, "9" * DECIMALS
    least_digits, most_digits = str(least).rjust(DECIMALS, "0"), str(most).rjust(DECIMALS, "0")
    if first == last:
        return f"{first}{_after_point(least_digits, most_digits)}"
    parts = [f"{first}{_after_point(least_digits, nines)}"]
    if last - first > 1:
        parts.append(f"{_whole(first + 1, last - 1)}{_FRACTION}")
    return _either([*parts, f"{last}{_after_point(zeros, most_digits)}"])


def _after_point(low: str, high: str) -> str:
    if set(high) == {"0"}:
        return r"(\.0)?"
    digits = rf"\.{_either(_decimals(low, high))}"
    return f"({digits})?" if set(low) == {"0"} else digits


def _decimals(low: str, high: str) -> list[str]:
    """Digits of which there may be fewer than `low` has, for zeros that are left out."""
    rest = len(low) - 1
    if set(low) == {"0"} and set(high) == {"9"}:
        return [f"[0-9]{{1,{rest + 1}}}"]
    if low[0] == high[0]:
        return [low[0] + _more(low[1:], high[1:])]
    parts = [low[0] + _more(low[1:], "9" * rest)]
    if int(high[0]) - int(low[0]) > 1:
        parts.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}][0-9]{{0,{rest}}}")
    return [*parts, high[0] + _more("0" * rest, high[1:])]


def _more(low: str, high: str) -> str:
    if not low:
        return ""
    digits = _either(_decimals(low, high))
    return f"({digits})?" if set(low) == {"0"} else digits


def _either(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({'|'.join(parts)})"
