"""`keep_alive`: seconds as a number or a Go duration as text (docs/reference 4.1)."""

import re
from collections.abc import Mapping

from goduration import MAX_NANOSECONDS, Duration, DurationParseError

from app.core.errors import InvalidRequest
from app.core.request import FOREVER, Json

_GO_TYPES: Mapping[type, str] = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}
_SECOND_NS = 10**9
# The library takes any Unicode digit for a digit; the only letters outside ASCII that Go knows are two mu.
_MOST_CHARS = 1024
_FOREIGN = re.compile("[^ -\x7f\u00b5\u03bc]")


def read_keep_alive(value: Json) -> float:
    """Seconds, with a nanosecond as the smallest step; anything negative is `FOREVER`."""
    if type(value) in _GO_TYPES:
        raise InvalidRequest(f"Unsupported type: '{_GO_TYPES[type(value)]}'")
    span_ns = _parse_duration(value) if isinstance(value, str) else value * _SECOND_NS
    return int(span_ns) / _SECOND_NS if 0 <= span_ns < MAX_NANOSECONDS else FOREVER


def _parse_duration(text: str) -> int:
    if len(text) > _MOST_CHARS or _FOREIGN.search(text):
        raise InvalidRequest(f"time: invalid duration {_quoted(text)}")
    try:
        return Duration.parse(text).nanoseconds
    except DurationParseError as error:
        raise InvalidRequest(str(error)) from None
    except ValueError:
        raise InvalidRequest(f"time: invalid duration {_quoted(text)}") from None


def _quoted(text: str) -> str:
    """Go's time package shows every byte that is not printable ASCII in hexadecimal."""
    text = text if len(text) <= _MOST_CHARS else text[:_MOST_CHARS] + "..."
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').encode()
    return '"' + "".join(chr(byte) if 0x20 <= byte < 0x80 else f"\\x{byte:02x}" for byte in escaped) + '"'
