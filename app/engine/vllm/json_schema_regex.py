"""Owns how a pattern is spelled for xgrammar, whose regular expressions describe the raw JSON text.

xgrammar has two converters. The automaton takes ASCII sources and keeps quotes, backslashes and control
characters out by itself; its bounded repetitions beyond 128 fail in the engine. The other one takes
everything else and keeps nothing out, so what it is given must spell the escapes of JSON itself.
"""

from app.engine.vllm.json_schema_language import Alt, Chars, Node, Ranges, Repeat, Seq, minus
from app.engine.vllm.json_schema_pattern import PatternError

_UNPRINTABLE: Ranges = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
_SHORT_ESCAPES = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_AVOID_AUTOMATON = "\u0080{0}"
"""Matches nothing, and is not ASCII: the automaton leaves such a source to the other converter."""

_AUTOMATON_LEAVES = 64
_MAX_LEAVES = 4096
_MAX_SLACK = 48


def spell(node: Node, *, escapes: bool = True) -> str | None:
    """The source for xgrammar's `pattern`; None where no text of the language can be written.

    Without `escapes` texts that need any are left out. They are left out of bounded repetitions in any
    case, where they would make every token a slow one, and so are control characters without a short escape.
    """
    if _leaves(node) > _MAX_LEAVES or _slack(node) > _MAX_SLACK:
        raise PatternError("too many repeated or optional parts")
    body = _Speller(escapes).spell(node)
    if body is None:
        return None
    plain = body.isascii() and "\\\\" not in body
    fits = _leaves(node) <= _AUTOMATON_LEAVES and plain
    return f"^({body}){'' if fits else _AVOID_AUTOMATON}$" if body else "^$"


class _Speller:
    def __init__(self, escapes: bool) -> None:
        self._escapes = escapes

    def spell(self, node: Node) -> str | None:
        match node:
            case Chars():
                return self._chars(node, self._escapes)
            case Seq(items):
                parts = [self.spell(item) for item in items]
                return None if None in parts else "".join(part for part in parts if part)
            case Alt(options):
                return self._alternatives([self.spell(option) for option in options])
            case Repeat(Chars() as item, low, high):
                return self._repeated_chars(item, low, high)
            case Repeat(item, low, high):
                return _repeated(self.spell(item), low, high)
            case _:
                raise AssertionError("a parsed pattern holds no anchors")

    def _alternatives(self, options: list[str | None]) -> str | None:
        kept = list(dict.fromkeys(option for option in options if option is not None))
        if not any(kept):
            return "" if kept else None
        joined = f"({'|'.join(option for option in kept if option)})"
        return f"({joined})?" if "" in kept else joined

    def _chars(self, node: Chars, escapes: bool) -> str | None:
        raw, escaped = _raw(node), _escaped(node)
        if raw and escaped and escapes:
            return f"({raw}|{escaped})"
        return raw or (escaped if self._escapes else None)

    def _repeated_chars(self, node: Chars, low: int, high: int | None) -> str | None:
        raw, escaped = _raw(node), _escaped(node)
        if not (raw and escaped and self._escapes) or high is not None:
            return _repeated(self._chars(node, escapes=(low, high) == (0, 1)), low, high)
        # One class repeated is fast, one group repeated is slow: so long runs first, then escapes between.
        star = f"{raw}*({escaped}{raw}*)*"
        if low == 0:
            return star
        return f"({raw}|{escaped}){star}" if low == 1 else f"{_repeated(raw, low, low)}{star}"


def _repeated(item: str | None, low: int, high: int | None) -> str | None:
    if high == 0 or item == "":
        return ""
    if item is None:
        return None if low else ""
    known = {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}
    most = "" if high is None else high
    count = known.get((low, high), f"{{{low}}}" if low == high else f"{{{low},{most}}}")
    return f"({item}){count}" if item[0] != "[" or "]" in item[:-1] else f"{item}{count}"


def _raw(node: Chars) -> str:
    ranges = minus(node.ranges, _UNPRINTABLE)
    if not ranges:
        return ""
    if ranges[0][0] == ord("^"):  # at its head the other converter would take it for a negation
        low, high = ranges[0]
        ranges = (*(((low + 1, high),) if high > low else ()), *ranges[1:], (low, low))
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _code(ranges[0][0])
    return (
        f"[{''.join(_code(low) if low == high else f'{_code(low)}-{_code(high)}' for low, high in ranges)}]"
    )


def _escaped(node: Chars) -> str:
    held = [
        spelled
        for char, spelled in _SHORT_ESCAPES.items()
        if any(low <= ord(char) <= high for low, high in node.ranges)
    ]
    if not held:
        return ""
    return "\\\\" + (_code(ord(held[0])) if len(held) == 1 else f"[{''.join(_code(ord(c)) for c in held)}]")


def _code(code: int) -> str:
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\u{{{code:x}}}"


def _leaves(node: Node) -> int:
    """Characters of the pattern once every counted repetition is written out."""
    match node:
        case Seq(parts) | Alt(parts):
            return sum(_leaves(part) for part in parts)
        case Repeat(item, low, high):
            return _leaves(item) * min(low + 1 if high is None else high, _AUTOMATON_LEAVES + 1)
        case _:
            return 1


def _slack(node: Node) -> int:
    """How many choices to skip or go on a text may meet: what makes a token slow to judge."""
    match node:
        case Seq(parts) | Alt(parts):
            return sum(_slack(part) for part in parts)
        case Repeat(item, low, high):
            times = low + 1 if high is None else high
            return _slack(item) * min(times, 8) + (1 if high is None else min(high - low, 8))
        case _:
            return 0
