"""Owns sets of texts, as regular expressions describe them: membership, lengths, complements."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]

LAST = 0x10FFFF
SURROGATES: Ranges = ((0xD800, 0xDFFF),)
MAX_COUNT = 1_000_000
"""The highest count of a repetition. No answer comes near it."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of sorted, disjoint ranges."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Seq:
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Alt:
    options: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`low` to `high` times; `high` None is without end."""

    item: "Node"
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Anchor:
    """`^` or `$`; gone once a pattern is parsed."""

    side: Literal["^", "$"]


Node: TypeAlias = Chars | Seq | Alt | Repeat | Anchor


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Every other character. Lone surrogates are none: they cannot be written as UTF-8."""
    gaps: list[tuple[int, int]] = []
    start = 0
    for low, high in union([*ranges, *SURROGATES]):
        if low > start:
            gaps.append((start, low - 1))
        start = high + 1
    return (*gaps, (start, LAST)) if start <= LAST else tuple(gaps)


def minus(ranges: Ranges, other: Ranges) -> Ranges:
    return complement(union([*complement(ranges), *other]))


ANY_CHAR = Chars(complement(()))
ANYTHING = Repeat(ANY_CHAR, 0, None)
EMPTY = Seq(())


def matches(node: Node, text: str) -> bool:
    """Whether the whole text is in the language; polynomial in its length."""
    return len(text) in _ends(node, text, {0})


def _ends(node: Node, text: str, starts: set[int]) -> set[int]:
    match node:
        case Chars(ranges):
            return {at + 1 for at in starts if at < len(text) and _within(ord(text[at]), ranges)}
        case Seq(items):
            for item in items:
                starts = _ends(item, text, starts)
            return starts
        case Alt(options):
            return set[int]().union(*(_ends(option, text, starts) for option in options))
        case Repeat():
            return _repeated_ends(node, text, starts)
        case Anchor():
            raise AssertionError("a parsed pattern holds no anchors")


def _repeated_ends(node: Repeat, text: str, starts: set[int]) -> set[int]:
    for _ in range(node.low):
        after = _ends(node.item, text, starts)
        if after == starts:
            break
        starts = after
    found = set(starts)
    rounds = len(text) if node.high is None else min(node.high - node.low, len(text))
    for _ in range(rounds):
        starts = _ends(node.item, text, starts) - found
        if not starts:
            break
        found |= starts
    return found


def _within(code: int, ranges: Ranges) -> bool:
    return any(low <= code <= high for low, high in ranges)


def lengths(node: Node) -> tuple[int, int | None]:
    """The shortest and the longest text, in characters; None is without end."""
    match node:
        case Chars() | Anchor():
            return 1, 1
        case Seq(items):
            bounds = [lengths(item) for item in items]
            return sum(low for low, _ in bounds), _total([high for _, high in bounds])
        case Alt(options):
            bounds = [lengths(option) for option in options]
            highs = [high for _, high in bounds]
            longest = None if None in highs else max((high for high in highs if high is not None), default=0)
            return min((low for low, _ in bounds), default=0), longest
        case Repeat(item, low, high):
            shortest, longest = lengths(item)
            if longest == 0 or high == 0:
                return 0, 0
            return shortest * low, None if longest is None or high is None else longest * high


def _total(parts: Sequence[int | None]) -> int | None:
    return None if None in parts else sum(part for part in parts if part is not None)


def bounded(node: Node, low: int, high: int | None) -> Node | None:
    """The texts of `low` to `high` characters, None where that cannot be written down exactly.

    It can where every text already fits, or where one part alone decides the length.
    """
    shortest, longest = lengths(node)
    if low <= shortest and (high is None or (longest is not None and longest <= high)):
        return node
    if (high is not None and shortest > high) or (longest is not None and longest < low):
        return Alt(())
    match node:
        case Alt(options):
            kept = [bounded(option, low, high) for option in options]
            return (
                None
                if None in kept
                else Alt(tuple(option for option in kept if option not in (None, Alt(()))))
            )
        case Seq(items):
            return _bounded_sequence(items, low, high)
        case Repeat():
            return _bounded_repeat(node, low, high)
        case _:
            return None


def _bounded_sequence(items: tuple[Node, ...], low: int, high: int | None) -> Node | None:
    bounds = [lengths(item) for item in items]
    loose = [at for at, (shortest, longest) in enumerate(bounds) if shortest != longest]
    if len(loose) != 1:
        return None
    at = loose[0]
    rest = sum(shortest for index, (shortest, _) in enumerate(bounds) if index != at)
    part = bounded(items[at], max(0, low - rest), None if high is None else high - rest)
    return None if part is None else Seq((*items[:at], part, *items[at + 1 :]))


def _bounded_repeat(node: Repeat, low: int, high: int | None) -> Node | None:
    shortest, longest = lengths(node.item)
    if shortest != longest or shortest == 0:
        return None
    fewest = max(node.low, -(-low // shortest))
    most = node.high if high is None else min(high // shortest, MAX_COUNT if node.high is None else node.high)
    if most is not None and fewest > most:
        return Alt(())
    return Repeat(node.item, fewest, most)


def all_but(names: Iterable[str]) -> Node:
    """Every text except these."""
    heads: dict[str, list[str]] = {}
    ends_here = False
    for name in names:
        if name:
            heads.setdefault(name[0], []).append(name[1:])
        else:
            ends_here = True
    if not heads:
        return Seq((ANY_CHAR, ANYTHING)) if ends_here else ANYTHING
    taken = union((ord(head), ord(head)) for head in heads)
    options: list[Node] = [Seq((Chars(complement(taken)), ANYTHING))]
    options += [Seq((Chars(((ord(head), ord(head)),)), all_but(tails))) for head, tails in heads.items()]
    return Alt(tuple(options if ends_here else [EMPTY, *options]))
