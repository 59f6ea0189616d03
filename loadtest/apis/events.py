"""Server-sent events, and JSON objects in lines of any kind."""

from typing import cast

import orjson

from loadtest.apis.base import BadAnswer, Json

_DATA = b"data:"


def data_of(body: bytes) -> list[bytes]:
    """The data of each event of a stream."""
    return [line[len(_DATA) :].strip() for line in body.splitlines() if line.startswith(_DATA)]


def read_object(text: bytes) -> Json:
    """`BadAnswer` for what is none."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadAnswer("a line that is no JSON") from None
    if not isinstance(found, dict):
        raise BadAnswer("a line that is no object")
    return cast(Json, found)
