"""What was fetched, kept for a while; and for how long HTTP lets a shared cache keep it."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Generic, TypeVar

T = TypeVar("T")

_HEURISTIC = 0.1
"""The part of its age for which a page without other word may be kept (RFC 9111 4.2.2 gives this figure)."""

_UNSAID_S = 60.0
"""How long a page that says nothing at all of its age is kept: as long as one answer may need it again."""


class Cache(Generic[T]):
    """At most `size_bytes` of values together; those that were not asked for the longest go first."""

    def __init__(self, size_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = size_bytes, clock
        self._kept: OrderedDict[str, tuple[float, int, T]] = OrderedDict()
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """What all values take together, as said when they came."""
        return self._bytes

    def get(self, key: str) -> T | None:
        """The value, unless its time is over."""
        if key not in self._kept:
            return None
        until, _, value = self._kept[key]
        if until <= self._clock():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return value

    def put(self, key: str, value: T, size_bytes: int, age_s: float) -> None:
        """Keep `value` for `age_s` seconds, if there is room for it at all."""
        self._drop(key)
        if age_s <= 0 or size_bytes > self._most:
            return
        self._kept[key] = self._clock() + age_s, size_bytes, value
        self._bytes += size_bytes
        while self._bytes > self._most:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        if entry := self._kept.pop(key, None):
            self._bytes -= entry[1]


def fresh_s(headers: Mapping[str, str], most_s: float) -> float:
    """For how many seconds, at most `most_s`, an answer with these headers may be given to another client.

    By RFC 9111: 0 for `no-store`, `private`, `no-cache`, a `Vary`, and what is stale already. An answer that
    sets a cookie may be one visitor's, so it is not kept either. `headers` have lower-case names, several of
    one name joined by commas.
    """
    said = _directives(headers.get("cache-control", ""))
    if said.keys() & {"no-store", "private", "no-cache"} or "set-cookie" in headers:
        return 0.0
    # The body is kept as it was read, so how it was encoded is the one thing that may vary.
    varies = {name.strip().lower() for name in headers.get("vary", "").split(",")} - {"", "accept-encoding"}
    if varies or ("no-cache" in headers.get("pragma", "").lower() and not said):
        return 0.0
    return max(0.0, min(most_s, _lifetime_s(headers, said) - _seconds(headers.get("age", "0"))))


def _lifetime_s(headers: Mapping[str, str], said: Mapping[str, str]) -> float:
    for name in ("s-maxage", "max-age"):
        if name in said:
            return _seconds(said[name])
    date = _date(headers.get("date", "")) or time.time()
    if "expires" in headers:
        # What is no date means that the time is over, "0" most of all.
        expires = _date(headers["expires"])
        return expires - date if expires is not None else 0.0
    modified = _date(headers.get("last-modified", ""))
    return _UNSAID_S if modified is None else max(0.0, date - modified) * _HEURISTIC


def _directives(text: str) -> dict[str, str]:
    """Of two of a name the first counts."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    found.pop("", None)
    return found


def _seconds(text: str) -> float:
    """0 for what is no number: not fresh, or not old."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0.0


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
