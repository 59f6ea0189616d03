"""Reading decoded JSON into typed values by Go's rules, with Go's words for what does not fit.

A `Kind` is a Go type as a request declares it. In a struct, keys match in any case, unknown keys are
ignored and null counts as absent (docs/reference 1.5).
"""

import binascii
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from app.core.errors import InvalidRequest
from app.core.request import Json

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_JSON_KINDS: Mapping[type, str] = {
    str: "string",
    int: "number",
    float: "number",
    bool: "bool",
    list: "array",
    dict: "object",
}


class Mismatch(Exception):
    """A value of the wrong type, on its way out through the fields that hold it.

    Go names the innermost struct and the whole path of fields, in which lists and map keys do not show.
    """

    def __init__(self, value: Json, go_type: str, *, shown: str = "") -> None:
        super().__init__()
        self._shown = shown or _JSON_KINDS[type(value)]
        self._go_type = go_type
        self._struct = ""
        self._path: tuple[str, ...] = ()

    def __str__(self) -> str:
        target = f"struct field {self._struct}.{'.'.join(self._path)} of" if self._path else "value of"
        return f"json: cannot unmarshal {self._shown} into Go {target} type {self._go_type}"

    def pass_field(self, struct_name: str, field: str) -> None:
        self._struct = self._struct or struct_name
        self._path = (field, *self._path)

    def pass_unmarshaler(self) -> None:
        """Where a type decodes itself, Go goes on with the struct around that type."""
        self._struct = ""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T_co]):
    """How Go names a type, how a value of it is read, and what null is within a list of it."""

    go_type: str
    read: Callable[[Json], T_co]
    zero: Callable[[], T_co]


def parse(kind: Kind[T], value: Json) -> T:
    """`value` as the whole of a request.

    Raises:
        InvalidRequest: with Go's text.
    """
    try:
        return kind.zero() if value is None else kind.read(value)
    except Mismatch as error:
        raise InvalidRequest(str(error)) from None


def list_of(kind: Kind[T], *, go_type: str = "") -> Kind[list[T]]:
    go_type = go_type or f"[]{kind.go_type}"

    def read(value: Json) -> list[T]:
        if not isinstance(value, list):
            raise Mismatch(value, go_type)
        return [kind.zero() if item is None else kind.read(item) for item in value]

    return Kind(go_type, read, list)


def struct(
    name: str, make: Callable[..., T], fields: Mapping[str, Kind[Any]], *, package: str = "api"
) -> Kind[T]:
    """A struct: `make` takes the fields that are there, by their JSON names less any leading underscore."""
    go_type = f"{package}.{name}"
    folded = {field.lower(): field for field in fields}

    def read(value: Json) -> T:
        if not isinstance(value, dict):
            raise Mismatch(value, go_type)
        found: dict[str, Any] = {}
        for key, item in value.items():
            field = key if key in fields else folded.get(key.lower())
            if item is None or field is None or (field != key and field in value):
                continue
            try:
                found[field.lstrip("_")] = fields[field].read(item)
            except Mismatch as error:
                error.pass_field(name, field)
                raise
        return make(**found)

    return Kind(go_type, read, make)


def unmarshaler(go_type: str, kind: Kind[T]) -> Kind[T]:
    """A type that decodes itself, by way of `kind`."""

    def read(value: Json) -> T:
        try:
            return kind.read(value)
        except Mismatch as error:
            error.pass_unmarshaler()
            raise

    return Kind(go_type, read, kind.zero)


def _scalar(go_type: str, python_type: type[T]) -> Kind[T]:
    def read(value: Json) -> T:
        if type(value) is not python_type:
            raise Mismatch(value, go_type)
        return value

    return Kind(go_type, read, python_type)


def _read_int(value: Json) -> int:
    if type(value) is int and -(1 << 63) <= value < 1 << 63:
        return value
    shown = f"number {value!r}" if type(value) in (int, float) else ""
    raise Mismatch(value, "int", shown=shown)


def _read_float(value: Json) -> float:
    if type(value) in (int, float):
        return float(value)
    raise Mismatch(value, "float64")


def _read_bytes(value: Json) -> bytes:
    if not isinstance(value, str):
        raise Mismatch(value, "api.ImageData")
    return decode_base64(value)


def _read_any(value: Json) -> Json:
    return value


def _nothing() -> None:
    return None


STRING: Kind[str] = _scalar("string", str)
BOOL: Kind[bool] = _scalar("bool", bool)
INT: Kind[int] = Kind("int", _read_int, int)
FLOAT: Kind[float] = Kind("float64", _read_float, float)
IMAGE: Kind[bytes] = Kind("api.ImageData", _read_bytes, bytes)
ANY: Kind[Json] = Kind("interface {}", _read_any, _nothing)
MAP: Kind[dict[str, Json]] = _scalar("map[string]interface {}", dict)


_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]*+")
_LINE_ENDS = re.compile(rb"[\r\n]*+")


def decode_base64(text: str) -> bytes:
    """Standard base64 with padding; line ends may stand anywhere, as in Go.

    Raises:
        InvalidRequest: naming the first byte that is wrong.
    """
    # Python's strict mode lets padding pass that follows whole groups.
    if len(text) % 4 == 0 and not text.endswith("==="):
        with suppress(ValueError):
            return binascii.a2b_base64(text, strict_mode=True)
    source = text.encode()
    wrong_at = _first_wrong_byte(source)
    if wrong_at is not None:
        raise InvalidRequest(f"illegal base64 data at input byte {wrong_at}")
    return binascii.a2b_base64(source)


def _first_wrong_byte(source: bytes) -> int | None:
    """Where Go's decoder gives up; None when it does not."""
    at = _end(_BASE64, source, 0)
    ends = source.count(b"\r", 0, at) + source.count(b"\n", 0, at)
    held = (at - ends) % 4
    if at == len(source):
        return at - held if held else None
    if source[at : at + 1] != b"=" or held < 2:
        return at
    at += 1
    if held == 2:
        at = _end(_LINE_ENDS, source, at)
        if at == len(source):
            return at
        if source[at : at + 1] != b"=":
            return at - 1
        at += 1
    at = _end(_LINE_ENDS, source, at)
    return at if at < len(source) else None


def _end(pattern: re.Pattern[bytes], source: bytes, at: int) -> int:
    match = pattern.match(source, at)
    return match.end() if match else at
