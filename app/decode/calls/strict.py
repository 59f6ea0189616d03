"""JSON as this server can hand it on: what JSON cannot hold, or a client could not read, is no value."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

MAX_NESTING = 200
"""Arrays and objects within each other. Some clients' decoders end soon after."""

_SPACE = re.compile(r"\s*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NONZERO = re.compile(r"^-?[0.]*[1-9]")


def decode(text: str, at: int = 0) -> tuple[Any, int]:
    """The value that begins at `at`, after white space, and where it ends.

    Raises:
        ValueError: no value, or one that is no JSON: NaN, a number beyond a double, half a surrogate pair.
    """
    try:
        value, end = _DECODER.raw_decode(text, skip_space(text, at))
        if _SURROGATE.search(text, at, end):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None
    if text.count("[", at, end) + text.count("{", at, end) > MAX_NESTING and nesting(value) > MAX_NESTING:
        raise ValueError("nested too deep")
    return value, end


def decode_whole(text: str) -> Any:
    """The value that `text` is, nothing before or after it but white space.

    Raises:
        ValueError: as `decode`.
    """
    value, end = decode(text)
    if skip_space(text, end) != len(text):
        raise ValueError("text after the value")
    return value


def end_of_unread(text: str, at: int) -> int:
    """How far the text from `at` on may belong to a value that `decode` refuses."""
    try:
        return _LENIENT.raw_decode(text, at)[1]
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated string"):
            return len(text)
        # A bracket in front may be the first of a mark.
        return error.pos - (text[error.pos - 1 : error.pos] == "[" and error.pos > at)
    except RecursionError:
        return len(text)


def skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def number(text: str) -> float:
    """A double that is what `text` says, as near as doubles come.

    Raises:
        ValueError: it is beyond them, on either end.
    """
    value = float(text)
    if not math.isfinite(value) or (not value and _NONZERO.match(text)):
        raise ValueError(f"no double is {text[:40]}")
    return value


def nesting(value: Any) -> int:
    """How deep `value` goes; without recursion."""
    depth, level = 0, [value]
    while level := [each for item in level for each in _items(item)]:
        depth += 1
    return depth + 1


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(parse_float=number, parse_constant=_refuse)
_LENIENT = json.JSONDecoder(parse_float=str, parse_int=str)
