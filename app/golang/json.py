"""The JSON value in a body as Ollama's decoder finds it, or that decoder's words for why there is none.

Only the first value counts; what follows is not looked at (docs/reference 1.5). Clean bodies are read by
orjson, whose rules are a subset of Go's. The standard library reads what Go tolerates beyond them: bytes
after the value, broken UTF-8, lone surrogates. What is nested too deeply for Python's call stack is built
without recursion, and a body that none of these can read goes through a scanner for the error text.
"""

import json
import math
import re
from collections.abc import Callable
from typing import NoReturn, TypeAlias

import orjson

from app.core.errors import InvalidRequest
from app.core.limits import DEFAULTS, InputLimits
from app.core.request import Json
from app.golang.jsonsize import refuse_large
from app.golang.quote import quoted

MAX_DEPTH = 10_000
"""Containers within containers, as in Go."""

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_INT_CHARS = len(str(-(2**63)))
_OUT_OF_RANGE = 2**64


def decode(body: bytes, limits: InputLimits = DEFAULTS) -> Json:
    """The first JSON value of `body`.

    Raises:
        InvalidRequest: with the text of Go's decoder when there is none; for a body over `limits`.
    """
    refuse_large(body, limits)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:  # also for what is nested over 1,024 times
        return _decode_leniently(body)


def _decode_leniently(body: bytes) -> Json:
    # Each byte that is not UTF-8 becomes one lone surrogate, and so meets the fate of an escaped one.
    text = body.lstrip(b" \t\r\n").decode("utf-8", "surrogateescape")
    try:
        value, _ = _LENIENT.raw_decode(text)
    except RecursionError:
        check_syntax(body)
        value = _build(text)
    except ValueError as error:
        check_syntax(body)
        raise InvalidRequest("invalid JSON") from error
    if not isinstance(value, dict | list):
        # A number ends here where Go still waits for more, as in `1.` or `2e`.
        check_syntax(body)
    return _without_surrogates(value)


def _read_int(text: str) -> int | float:
    """As orjson does: what no 64 bits can hold is a float."""
    value = int(text) if len(text) <= _INT_CHARS else _OUT_OF_RANGE
    return value if -(2**63) <= value < 2**64 else _read_float(text)


def _read_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise InvalidRequest(f"json: cannot unmarshal number {text} into Go value of type float64")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(text)


_LENIENT = json.JSONDecoder(parse_int=_read_int, parse_float=_read_float, parse_constant=_refuse_constant)


_TOKEN = re.compile(r'[\[{]|[]}]|"(?:[^"\\]++|\\.)*+"|[^] \t\r\n,:"{}[]++', re.DOTALL)


def _build(text: str) -> Json:
    """The first value of a text that is known to begin with a list or object that is well-formed."""
    outermost: list[Json] = []
    around: list[tuple[Json, str | None]] = []
    node: Json = outermost
    key: str | None = None
    for token in _TOKEN.finditer(text):
        head = token[0]
        if head in ("]", "}"):
            node, key = around.pop()
            if not around:
                break
            continue
        value: Json = [] if head == "[" else {} if head == "{" else _LENIENT.decode(head)
        if isinstance(node, list):
            node.append(value)
        elif key is None:
            key = value
            continue
        else:
            node[key], key = value, None
        if head in ("[", "{"):
            around.append((node, key))
            node, key = value, None
    return outermost[0]


def _without_surrogates(value: Json) -> Json:
    """`value` with its lone surrogates replaced, in place: it may be too deep for recursion."""
    pending = [value] if isinstance(value, dict | list) else []
    while pending:
        node = pending.pop()
        if isinstance(node, dict) and not all(map(str.isascii, node)):
            items = [(_mended(key), item) for key, item in node.items()]
            node.clear()
            node.update(items)
        for key, item in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(item, dict | list):
                pending.append(item)
            else:
                node[key] = _mended(item)
    return _mended(value)


def _mended(value: Json) -> Json:
    if not isinstance(value, str) or value.isascii():
        return value
    return _LONE_SURROGATES.sub("\ufffd", value)


def check_syntax(body: bytes) -> None:
    """Raise `InvalidRequest` unless `body` begins with a JSON value that is well-formed to Go's scanner."""
    scanner = _Scanner(body)
    step: _Step = scanner.begin
    while step is not None:
        scanner.skip_space()
        step = step()


_Step: TypeAlias = "Callable[[], _Step] | None"

_SPACE = re.compile(rb"[ \t\r\n]*+")
_DIGITS = re.compile(rb"[0-9]*+")
_HEX_DIGITS = re.compile(rb"[0-9A-Fa-f]*+")
_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})*+')
_LITERALS = {b"t": b"true", b"f": b"false", b"n": b"null"}
_CLOSING = {b"{": b"}", b"[": b"]"}


class _Scanner:
    """Walks over one value. Each step starts at a byte that is not space and returns the step to follow."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0
        self._open: list[bytes] = []

    def skip_space(self) -> None:
        self._skip(_SPACE)

    def begin(self) -> _Step:
        if not self._head():
            raise InvalidRequest("missing request body")
        return self._value()

    def _value(self) -> _Step:
        head = self._head()
        if head in _CLOSING:
            return self._enter(head)
        if head == b'"':
            self._string()
        elif head == b"-" or head.isdigit():
            self._number()
        elif head in _LITERALS:
            self._literal(_LITERALS[head])
        else:
            self._fail("looking for beginning of value")
        return self._after()

    def _enter(self, head: bytes) -> _Step:
        self._open.append(head)
        if len(self._open) > MAX_DEPTH:
            self._fail("exceeded max depth")
        self._at += 1
        return self._first

    def _first(self) -> _Step:
        if self._head() == _CLOSING[self._open[-1]]:
            return self._leave()
        return self._next()

    def _next(self) -> _Step:
        return self._key() if self._open[-1] == b"{" else self._value()

    def _key(self) -> _Step:
        if self._head() != b'"':
            self._fail("looking for beginning of object key string")
        self._string()
        return self._colon

    def _colon(self) -> _Step:
        if self._head() != b":":
            self._fail("after object key")
        self._at += 1
        return self._value

    def _after(self) -> _Step:
        return self._comma if self._open else None

    def _comma(self) -> _Step:
        if self._head() == _CLOSING[self._open[-1]]:
            return self._leave()
        if self._head() != b",":
            self._fail("after object key:value pair" if self._open[-1] == b"{" else "after array element")
        self._at += 1
        return self._next

    def _leave(self) -> _Step:
        self._at += 1
        self._open.pop()
        return self._after()

    def _string(self) -> None:
        self._skip(_STRING)
        if self._head() == b"\\":
            self._fail_in_escape()
        if self._head() != b'"':
            self._fail("in string literal")
        self._at += 1

    def _fail_in_escape(self) -> NoReturn:
        self._at += 1
        if self._head() != b"u":
            self._fail("in string escape code")
        self._at += 1
        self._skip(_HEX_DIGITS)
        self._fail("in \\u hexadecimal character escape")

    def _number(self) -> None:
        if self._head() == b"-":
            self._at += 1
        if self._head() == b"0":
            self._at += 1
        else:
            self._digits("in numeric literal")
        if self._head() == b".":
            self._at += 1
            self._digits("after decimal point in numeric literal")
        if self._head() in (b"e", b"E"):
            self._at += 1
            if self._head() in (b"+", b"-"):
                self._at += 1
            self._digits("in exponent of numeric literal")

    def _digits(self, context: str) -> None:
        if not self._head().isdigit():
            self._fail(context)
        self._skip(_DIGITS)

    def _literal(self, word: bytes) -> None:
        for expected in word.decode():
            if self._head() != expected.encode():
                self._fail(f"in literal {word.decode()} (expecting '{expected}')")
            self._at += 1

    def _head(self) -> bytes:
        return self._body[self._at : self._at + 1]

    def _skip(self, pattern: re.Pattern[bytes]) -> None:
        if match := pattern.match(self._body, self._at):
            self._at = match.end()

    def _fail(self, context: str) -> NoReturn:
        head = self._head()
        if not head:
            raise InvalidRequest("unexpected EOF")
        raise InvalidRequest(f"invalid character {_quoted_char(head)} {context}")


def _quoted_char(head: bytes) -> str:
    char = head.decode("latin-1")
    if char in "'\"":
        return "'\\''" if char == "'" else "'\"'"
    return f"'{quoted(char)[1:-1]}'"
