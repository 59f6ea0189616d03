"""What any field of a request may hold at most: counted from decoded JSON before anything is made of it."""

from collections.abc import Iterator
from typing import Any

import orjson

from app.core.errors import InvalidRequest
from app.core.limits import InputLimits, refuse_over
from app.core.request import Json


def items(value: Json) -> list[Any]:
    """The items of a list, and of anything else none."""
    return value if isinstance(value, list) else []


def refuse_nested(name: str, value: Json, limits: InputLimits) -> None:
    """Readers of nested fields, ours and the engine's, are recursive.

    Raises:
        InvalidRequest: for more levels than `limits.nesting`.
    """
    if not limits.nesting:
        return
    level = [value]
    for _ in range(limits.nesting):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise InvalidRequest(f"{name}: at most {limits.nesting} levels of nesting, this request has more")


def _children(node: Json) -> Iterator[Json]:
    inner = node.values() if isinstance(node, dict) else items(node)
    return (child for child in inner if isinstance(child, dict | list))


def written_bytes(value: Json) -> int:
    """Of an object or a list, as compact JSON; 0 for what is neither."""
    return len(orjson.dumps(value)) if isinstance(value, dict | list) else 0


def refuse_stops(value: Json, limits: InputLimits, name: str = "stop") -> None:
    """Refuse a client's stop strings where they are too much: the engine looks for each at every token.

    `name` is the field's.

    Raises:
        InvalidRequest: for too many strings, or too long ones.
    """
    stops = value if isinstance(value, list | tuple) else ()
    refuse_over(name, limits.stop, len(stops))
    chars = sum(len(stop) for stop in stops if isinstance(stop, str))
    refuse_over(name, limits.stop_chars, chars, " characters together")
