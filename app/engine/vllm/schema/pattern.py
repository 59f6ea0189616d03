"""Owns the reading of `pattern`: the part of ECMA-262 that describes a regular language.

A pattern searches; what is made of it here matches whole texts, so an unanchored side becomes `ANYTHING`.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from app.engine.vllm.schema.language import (
    ANYTHING,
    LAST,
    MAX_COUNT,
    Alt,
    Anchor,
    Chars,
    Node,
    Ranges,
    Repeat,
    Seq,
    complement,
)

MAX_SOURCE = 2000
MAX_NESTING = 24

DIGITS: Ranges = ((0x30, 0x39),)
WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: Ranges = (
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
)
LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))


class PatternError(ValueError):
    """The pattern is malformed or beyond what a grammar can express; the text says which and where."""


_ESCAPED_SETS: dict[str, Ranges] = {
    "d": DIGITS,
    "D": complement(DIGITS),
    "w": WORD,
    "W": complement(WORD),
    "s": SPACE,
    "S": complement(SPACE),
}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_QUANTIFIER = re.compile(r"\{(\d+)(,(\d*))?\}")
_GROUP_NAME = re.compile(r"P?<([A-Za-z_]\w*)>")
_HEX = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|c([A-Za-z])")


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._nesting = 0

    def whole(self) -> Node:
        node = self._alternation()
        if self._at < len(self._source):
            raise self._error("unmatched )")
        return node

    def _error(self, what: str) -> PatternError:
        return PatternError(f"{what} at character {self._at + 1}")

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise self._error("unexpected end")
        self._at += 1
        return char

    def _accept(self, text: str) -> bool:
        if not self._source.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _alternation(self) -> Node:
        options = [self._sequence()]
        while self._accept("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            items.append(self._quantified())
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def _quantified(self) -> Node:
        item = self._atom()
        bounds = self._quantifier()
        if bounds is None:
            return item
        self._accept("?")  # a lazy match has the same language
        if self._peek() in ("*", "+", "?", "{"):
            raise self._error("a second quantifier")
        if isinstance(item, Anchor):
            raise self._error("a repeated anchor")
        return Repeat(item, *bounds)

    def _quantifier(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._accept(sign):
                return bounds
        if self._peek() != "{":
            return None
        match = _QUANTIFIER.match(self._source, self._at)
        if match is None:
            raise self._error("an incomplete quantifier")
        low = int(match[1])
        high = low if match[2] is None else int(match[3]) if match[3] else None
        if high is not None and high < low:
            raise self._error("a quantifier with its bounds swapped")
        if max(low, high or 0) > MAX_COUNT:
            raise self._error(f"a count over {MAX_COUNT}")
        self._at = match.end()
        return low, high

    def _atom(self) -> Node:
        char = self._take()
        if char == "(":
            return self._group()
        if char == "[":
            return Chars(self._class())
        if char == ".":
            return Chars(complement(LINE_ENDS))
        if char in ("^", "$"):
            return Anchor("^" if char == "^" else "$")
        if char == "\\":
            return Chars(self._escape())
        if char in "*+?{":
            raise self._error("a quantifier with nothing to repeat")
        return Chars(self._single(ord(char)))

    def _group(self) -> Node:
        if self._accept("?") and not self._accept(":"):
            name = _GROUP_NAME.match(self._source, self._at)
            if name is None:
                raise self._error("look-around or inline flags are not supported,")
            self._at = name.end()
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise self._error(f"groups nest over {MAX_NESTING} levels")
        node = self._alternation()
        self._nesting -= 1
        if not self._accept(")"):
            raise self._error("a group that is not closed")
        return node

    def _class(self) -> Ranges:
        negated = self._accept("^")
        if self._peek() == "]":
            raise self._error("an empty character class")
        parts: list[tuple[int, int]] = []
        while not self._accept("]"):
            low = self._class_atom()
            if self._peek() == "-" and self._source[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                low = (self._range(low, self._class_atom()),)
            parts.extend(low)
        others = complement(parts)
        return others if negated else complement(others)

    def _class_atom(self) -> Ranges:
        char = self._take()
        if char != "\\":
            return self._single(ord(char))
        if self._accept("b"):
            return ((8, 8),)
        return ((0x2D, 0x2D),) if self._accept("-") else self._escape()

    def _range(self, low: Ranges, high: Ranges) -> tuple[int, int]:
        ends = low + high
        if len(ends) != 2 or any(start != end for start, end in ends) or ends[0] > ends[1]:
            raise self._error("a bad range in a character class")
        return ends[0][0], ends[1][0]

    def _escape(self) -> Ranges:
        if match := _HEX.match(self._source, self._at):
            self._at = match.end()
            code = ord(match[4]) % 32 if match[4] else int(match[1] or match[2] or match[3], 16)
            return self._single(code)
        char = self._take()
        if char in _ESCAPED_SETS:
            return _ESCAPED_SETS[char]
        if char in _CONTROLS and not (char == "0" and self._peek().isdigit()):
            return self._single(_CONTROLS[char])
        if char.isalnum():
            raise self._error(f"\\{char} is not supported,")
        return self._single(ord(char))

    def _single(self, code: int) -> Ranges:
        if code > LAST or 0xD800 <= code <= 0xDFFF:
            raise self._error("not a Unicode character")
        return ((code, code),)


_WITHOUT_LOOK_AROUND = {
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$": (
        r"^([A-Za-z0-9_'+-]+\.)*[A-Za-z0-9_'+-]*[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,}$"
    ),
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$": r"^[+-]?(\d+\.?\d*|\.\d+)$",
}
"""What Zod writes for an e-mail address and pydantic for a decimal, and the same languages said otherwise."""


@lru_cache(maxsize=256)
def parse(source: str) -> Node:
    """The language of the texts in which `source` finds a match."""
    source = _WITHOUT_LOOK_AROUND.get(source, source)
    if len(source) > MAX_SOURCE:
        raise PatternError(f"longer than {MAX_SOURCE} characters")
    options = [_anchored(option) for option in _options(_Parser(source).whole())]
    return options[0] if len(options) == 1 else Alt(tuple(options))


def _options(node: Node) -> Iterable[tuple[Node, ...]]:
    """The top-level alternatives, as sequences; a group that is all of one is opened."""
    if isinstance(node, Alt):
        for option in node.options:
            yield from _options(option)
    elif isinstance(node, Seq) and len(node.items) == 1:
        yield from _options(node.items[0])
    else:
        yield node.items if isinstance(node, Seq) else (node,)


def _anchored(items: Sequence[Node]) -> Node:
    start = bool(items) and items[0] == Anchor("^")
    items = items[1:] if start else items
    end = bool(items) and items[-1] == Anchor("$")
    items = items[:-1] if end else items
    if any(_has_anchor(item) for item in items):
        raise PatternError("^ and $ are supported only at the two ends of a whole alternative")
    if not items and not (start and end):
        return ANYTHING
    before = () if start else (ANYTHING,)
    return Seq((*before, *items, *(() if end else (ANYTHING,))))


def _has_anchor(node: Node) -> bool:
    match node:
        case Anchor():
            return True
        case Chars():
            return False
        case Repeat(item):
            return _has_anchor(item)
        case Seq(parts) | Alt(parts):
            return any(_has_anchor(part) for part in parts)
