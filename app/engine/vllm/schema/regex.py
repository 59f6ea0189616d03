"""Owns how a set of texts is spelled for xgrammar, whose regular expressions describe the raw JSON text.

xgrammar has two converters. The automaton takes ASCII sources and keeps quotes, backslashes and control
characters out by itself. It fails in the engine on bounded repetitions beyond 128, takes `(ab*)?` to match
"b", and lets broken UTF-8 through where one class spans characters of two and of more bytes: none of
that is spelled for it here. The grammar takes everything else and keeps nothing out, so what it is given
must spell the escapes of JSON itself; where a part of varying length is repeated it takes up to seconds
for one token, so it is given no such part.
"""

from app.engine.vllm.schema.language import (
    Alt,
    Chars,
    Node,
    Ranges,
    Repeat,
    Seq,
    complement,
    lengths,
    minus,
)
from app.engine.vllm.schema.pattern import PatternError

_UNPRINTABLE: Ranges = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
_SHORT_ESCAPES = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_UTF8_BLOCKS: tuple[Ranges, ...] = (((0x00, 0x7FF),), ((0x800, 0xFFFF),), ((0x10000, 0x10FFFF),))
_FOR_GRAMMAR = "\u0080{0}"
"""Matches nothing, and is not ASCII: the automaton leaves such a source alone."""

_MAX_LEAVES = 720
_MAX_COUNT = 128
_MAX_SLACK = 48


def spell(node: Node, *, escapes: bool = True, trusted: bool = False) -> str | None:
    """The source for xgrammar's `pattern`; None where no text of the language can be written.

    Texts that need an escape in JSON are left out without `escapes`, and in any case where they would
    make every token a slow one: in bounded repetitions and in patterns that repeat a part of varying
    length. A pattern that is not `trusted` may have only so many parts.
    """
    if not trusted and _slack(node) > _MAX_SLACK:
        raise PatternError("too many repeated or optional parts")
    fits = _leaves(node) <= _MAX_LEAVES and _longest_count(node) <= _MAX_COUNT
    if _repeats_loosely(node):
        source = _Automaton().spell(node) if fits else None
        if source is None:
            raise PatternError("too many repeated parts, or one in which quotes are needed")
        return _anchored(source, "")
    if fits and not (escapes and _needs_escape(node)):
        source = _Automaton().spell(node)
        if source is not None or not escapes:
            return None if source is None else _anchored(source, "")
    source = _Grammar(escapes).spell(node)
    return None if source is None else _anchored(source, _FOR_GRAMMAR)


def _anchored(source: str, mark: str) -> str:
    return f"^({source}){mark}$" if source else "^$"


class _Automaton:
    """Spells without escapes."""

    def spell(self, node: Node) -> str | None:
        match node:
            case Chars():
                return self.chars(node)
            case Seq(items):
                parts = [self.spell(item) for item in items]
                return None if None in parts else "".join(part for part in parts if part)
            case Alt(options):
                return _alternatives([self.spell(option) for option in options])
            case Repeat(Chars() as item, low, high):
                return self.run(item, low, high)
            case Repeat(item, low, high):
                return _repeated(self.spell(item), low, high)
            case _:
                raise AssertionError("a parsed pattern holds no anchors")

    def chars(self, node: Chars) -> str | None:
        blocks = [minus(node.ranges, complement(block)) for block in _UTF8_BLOCKS]
        return _alternatives([_raw(Chars(block)) or None for block in blocks])

    def run(self, item: Chars, low: int, high: int | None) -> str | None:
        return _repeated(self.chars(item), low, high)


class _Grammar(_Automaton):
    def __init__(self, escapes: bool) -> None:
        self._escapes = escapes

    def chars(self, node: Chars) -> str | None:
        raw, escaped = _raw(node), _escaped(node) if self._escapes else ""
        return f"({raw}|{escaped})" if raw and escaped else raw or escaped or None

    def run(self, item: Chars, low: int, high: int | None) -> str | None:
        raw, escaped = _raw(item), _escaped(item) if self._escapes else ""
        if not (raw and escaped) or (low, high) in ((0, 1), (1, 1)):
            return _repeated(self.chars(item), low, high)
        if high is not None:
            return _repeated(raw, low, high)
        # One class repeated is fast, a choice repeated is slow: so long runs first, then escapes between.
        star = f"{raw}*({escaped}{raw}*)*"
        if low == 0:
            return star
        return f"({raw}|{escaped}){star}" if low == 1 else f"{_repeated(raw, low, low)}{star}"


def _alternatives(options: list[str | None]) -> str | None:
    kept = list(dict.fromkeys(option for option in options if option is not None))
    spoken = [option for option in kept if option]
    if not spoken:
        return "" if kept else None
    if len(kept) == 1:
        return kept[0] if _is_class(kept[0]) else f"({kept[0]})"
    return f"({'|'.join(spoken)}{'|' if '' in kept else ''})"


def _repeated(item: str | None, low: int, high: int | None) -> str | None:
    if high == 0 or item == "":
        return ""
    if item is None:
        return None if low else ""
    if (low, high) == (0, 1) and not _is_class(item):
        return f"({item}|)"
    most = "" if high is None else high
    known = {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}
    count = known.get((low, high), f"{{{low}}}" if low == high else f"{{{low},{most}}}")
    return f"{item}{count}" if _is_class(item) else f"({item}){count}"


def _is_class(source: str) -> bool:
    return source[0] == "[" and "]" not in source[:-1]


def _raw(node: Chars) -> str:
    ranges = minus(node.ranges, _UNPRINTABLE)
    if not ranges:
        return ""
    if ranges[0][0] == ord("^"):  # at its head the grammar would take it for a negation
        low, high = ranges[0]
        ranges = (*(((low + 1, high),) if high > low else ()), *ranges[1:], (low, low))
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _code(ranges[0][0])
    return (
        f"[{''.join(_code(low) if low == high else f'{_code(low)}-{_code(high)}' for low, high in ranges)}]"
    )


def _escaped(node: Chars) -> str:
    held = [spelled for char, spelled in _SHORT_ESCAPES.items() if _holds(node, char)]
    if not held:
        return ""
    return "\\\\" + (_code(ord(held[0])) if len(held) == 1 else f"[{''.join(_code(ord(c)) for c in held)}]")


def _holds(node: Chars, char: str) -> bool:
    return any(low <= ord(char) <= high for low, high in node.ranges)


def _code(code: int) -> str:
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\u{{{code:x}}}"


def _parts(node: Node) -> tuple[Node, ...]:
    match node:
        case Seq(parts) | Alt(parts):
            return parts
        case Repeat(item):
            return (item,)
        case _:
            return ()


def _needs_escape(node: Node) -> bool:
    if isinstance(node, Chars):
        return any(_holds(node, char) for char in _SHORT_ESCAPES)
    return any(_needs_escape(part) for part in _parts(node))


def _repeats_loosely(node: Node) -> bool:
    if isinstance(node, Repeat) and node.high not in (0, 1):
        shortest, longest = lengths(node.item)
        if shortest != longest:
            return True
    return any(_repeats_loosely(part) for part in _parts(node))


def _longest_count(node: Node) -> int:
    own = max(node.low, node.high or 0) if isinstance(node, Repeat) else 0
    return max([own, *(_longest_count(part) for part in _parts(node))])


def _leaves(node: Node) -> int:
    """Characters of the pattern once every counted repetition is written out."""
    match node:
        case Chars():
            return 1
        case Repeat(item, low, high):
            return _leaves(item) * (low + 1 if high is None else high)
        case _:
            return sum(_leaves(part) for part in _parts(node))


def _slack(node: Node) -> int:
    """How many choices to skip or go on a text may meet: what makes a token slow to judge."""
    parts = [_slack(part) for part in _parts(node)]
    if isinstance(node, Alt):
        return max(parts, default=0) + (lengths(node)[0] == 0)
    if not isinstance(node, Repeat):
        return sum(parts)
    times = node.low + 1 if node.high is None else node.high
    return sum(parts) * min(times, 8) + (1 if node.high is None else min(node.high - node.low, 8))
