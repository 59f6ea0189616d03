"""Owns the reading of `pattern`: ECMA-262's dialect of regular expressions, written in Rust's for llguidance.

The two agree in most, and differ in silence in the rest: `[a&&b]` holds three characters in one and none in
the other. So every class is taken apart and written anew, and what only Rust knows is refused.
"""

import re

from app.constrain.types import JsonPointer, refusal

MAX_GROUPS = 200
"""Groups inside one another."""

MAX_REPEAT = 1_000_000

_DIGIT, _WORD = "0-9", "0-9A-Za-z_"
_SPACE = r"\x{9}-\x{D}\x{20}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}"
_SETS = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_LINE_ENDS = r"\x{A}\x{D}\x{2028}\x{2029}"
_CONTROLS = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
_QUANTIFIER = re.compile(r"[*+?]|\{([0-9]+)(,([0-9]*))?\}")
_HEX = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")
_LOW_HALF = re.compile(r"\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)
_PROPERTY = re.compile(r"[pP]\{[A-Za-z_]+(=[A-Za-z_]+)?\}")
_GROUP = re.compile(r"\(\?(:|P?<[^\W\d]\w*>)")
_LOOK_AROUND = ("(?=", "(?!", "(?<=", "(?<!")


def in_rust(pattern: str, place: JsonPointer) -> str:
    """Raises `InvalidRequest` for what is no regular expression of ECMA-262, or has no text of its own."""
    return _Reader(pattern, place).expression()


class _Reader:
    def __init__(self, pattern: str, place: JsonPointer) -> None:
        self._pattern, self._place = pattern, place
        self._at = 0

    def expression(self) -> str:
        written: list[str] = []
        groups = 0
        repeatable = False
        while self._at < len(self._pattern):
            char = self._pattern[self._at]
            if found := _QUANTIFIER.match(self._pattern, self._at):
                if not repeatable:
                    raise self._fault(f"there is nothing before {found[0]!r} to repeat")
                written.append(self._quantifier(found))
                repeatable = False
                continue
            if char == "(":
                written.append(self._group())
                groups += 1
                if groups > MAX_GROUPS:
                    raise self._fault(f"groups are more than {MAX_GROUPS} levels deep")
            elif char == ")":
                if not groups:
                    raise self._fault('there is an unopened group at ")"')
                groups -= 1
                written.append(self._one())
            elif char in "^$|":
                written.append(self._one())
            else:
                written.append(self._atom())
            repeatable = char not in "(^$|"
        if groups:
            raise self._fault("there is an unclosed group")
        return "".join(written)

    def _fault(self, reason: str) -> Exception:
        return refusal(self._place, f"the regular expression cannot be honoured: {reason}")

    def _one(self) -> str:
        self._at += 1
        return self._pattern[self._at - 1]

    def _quantifier(self, found: re.Match[str]) -> str:
        self._at = found.end()
        if self._pattern.startswith("?", self._at):  # what it prefers does not change what it can match
            self._at += 1
        low, comma, high = found.groups()
        if low is None:
            return found[0]
        if max(len(low), len(high or "")) > 9 or max(int(low), int(high or 0)) > MAX_REPEAT:
            raise self._fault(f"repetitions are supported up to {MAX_REPEAT}")
        if high and int(low) > int(high):
            raise self._fault(f"the numbers of {found[0]} are out of order")
        return f"{{{int(low)}{',' if comma else ''}{int(high) if high else ''}}}"

    def _group(self) -> str:
        if self._pattern.startswith(_LOOK_AROUND, self._at):
            raise self._fault("look-around is not supported")
        if found := _GROUP.match(self._pattern, self._at):
            self._at = found.end()
        elif self._pattern.startswith("(?", self._at):
            raise self._fault("flags are not supported, nor groups but (...), (?:...) and (?<name>...)")
        else:
            self._at += 1
        return "(?:"

    def _atom(self) -> str:
        char = self._one()
        if char == ".":
            return f"[^{_LINE_ENDS}]"
        if char == "[":
            return self._class()
        if char != "\\":
            return _char(ord(char))
        if self._pattern.startswith(("b", "B"), self._at):
            raise self._fault("word boundaries are not supported")
        if self._pattern[self._at : self._at + 1] in ("1", "2", "3", "4", "5", "6", "7", "8", "9", "k"):
            raise self._fault("backreferences are not supported")
        escaped = self._escape()
        return _char(escaped) if isinstance(escaped, int) else escaped

    def _escape(self) -> int | str:
        """The character, or the class, that is escaped; the backslash is read already."""
        if self._at == len(self._pattern):
            raise self._fault("it ends with a backslash")
        if found := _PROPERTY.match(self._pattern, self._at):
            self._at = found.end()
            return f"\\{found[0]}"
        if found := _HEX.match(self._pattern, self._at):
            self._at = found.end()
            return self._scalar(int(found[1] or found[2] or found[3], 16))
        char = self._one()
        if char in _CONTROLS:
            return ord(_CONTROLS[char])
        if char.lower() in _SETS:
            return f"[{'^' if char.isupper() else ''}{_SETS[char.lower()]}]"
        after = self._pattern[self._at : self._at + 1]
        if char == "c" and after.isascii() and after.isalpha():
            return ord(self._one()) % 32
        if char == "0" and not after.isdigit():
            return 0
        if char.isascii() and char.isalnum():
            raise self._fault(f"\\{char} is no escape of ECMA-262")
        return ord(char)

    def _scalar(self, code: int) -> int:
        """The two halves of one character are one; a half alone is in no text."""
        if 0xD800 <= code < 0xDC00 and (found := _LOW_HALF.match(self._pattern, self._at)):
            self._at = found.end()
            return 0x10000 + ((code - 0xD800) << 10) + int(found[1], 16) - 0xDC00
        if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            raise self._fault(f"U+{code:04X} is no character")
        return code

    def _class(self) -> str:
        negated = self._pattern.startswith("^", self._at)
        self._at += negated
        items: list[str] = []
        while not self._pattern.startswith("]", self._at):
            first = self._member()
            ranged = self._pattern.startswith("-", self._at) and not self._pattern.startswith("-]", self._at)
            if not ranged:
                items.append(_char(first) if isinstance(first, int) else first)
                continue
            self._at += 1
            last = self._member()
            if not isinstance(first, int) or not isinstance(last, int):
                # A set is the end of no range: all three stand for themselves.
                items += [_char(end) if isinstance(end, int) else end for end in (first, ord("-"), last)]
            elif first > last:
                raise self._fault("the ends of a range are out of order")
            else:
                items.append(f"{_char(first)}-{_char(last)}")
        self._at += 1
        if not items:
            return r"[\x{0}-\x{10FFFF}]" if negated else r"[^\x{0}-\x{10FFFF}]"
        return f"[{'^' if negated else ''}{''.join(items)}]"

    def _member(self) -> int | str:
        if self._at == len(self._pattern):
            raise self._fault("there is an unclosed class")
        char = self._one()
        if char != "\\":
            return ord(char)
        if self._pattern.startswith("b", self._at):
            self._at += 1
            return ord("\b")
        return self._escape()


def _char(code: int) -> str:
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:X}}}"
