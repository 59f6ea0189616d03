"""The APIs that this server speaks: in whose words it says what no route has said.

A key, a limit or a drain refuses a request before any route sees it; by the path, the answer is one that
clients of that API understand.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
from starlette.types import Scope

from app.api.errors import headers_of, status_of, text_of

DIALECT = "caravan.dialect"
"""Where the scope holds the request's `Dialect`."""


class Answer(NamedTuple):
    """A whole answer; `headers` have its content type."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API. Its paths begin with one of `prefixes`; `failure` words any error."""

    name: str
    prefixes: tuple[str, ...]
    failure: Callable[[Exception], Answer]


def _plain(error: Exception) -> Answer:
    headers = {"content-type": "application/json; charset=utf-8", **headers_of(error)}
    return Answer(status_of(error), headers, orjson.dumps({"error": text_of(error)}))


PLAIN = Dialect("", ("",), _plain)
"""Of a path that belongs to no API."""


def dialect_for(path: str, dialects: Sequence[Dialect]) -> Dialect:
    """The one with the longest prefix of `path`."""
    found = [(len(prefix), each) for each in dialects for prefix in each.prefixes if path.startswith(prefix)]
    return max(found, key=lambda item: item[0])[1] if found else PLAIN


def dialect_of(scope: Scope) -> Dialect:
    return scope.get(DIALECT, PLAIN)
