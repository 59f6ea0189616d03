"""Stop strings in a text that comes piece by piece: what may be passed on, and where the text ends."""

from array import array
from collections.abc import Iterable


class Stops:
    """The stop strings of one reply.

    All text is passed on at once but for the longest end of it that a stop string begins with. Work grows
    with the new text alone. `found` is the stop string that ended the text: the first to be complete, and of
    those that end at one place the first in order.
    """

    __slots__ = ("_first", "_longest", "_strings", "found")

    def __init__(self, strings: Iterable[str]) -> None:
        self._strings = [_StopString(text) for text in strings if text]
        self._first = {string.text[0] for string in self._strings}
        self._longest = _NOTHING
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """What may be passed on once `piece` has come; nothing of a stop string, and nothing after one."""
        if self.found is not None:
            return ""
        before, held = self._longest, self._longest.matched
        if not held and self._first.isdisjoint(piece):
            return piece
        end, found = len(piece) + 1, None
        longest = _NOTHING
        for string in self._strings:
            if not string.matched and string.text[0] not in piece:
                continue
            if at := string.read(piece, end):
                end, found = at, string
            elif string.matched > longest.matched:
                longest = string
        if found is not None:
            self.found = found.text
            self._longest = _NOTHING
            return _joined(before.text, held, piece, held + end - len(found.text))
        self._longest = longest
        return _joined(before.text, held, piece, held + len(piece) - longest.matched)

    def rest(self) -> str:
        """What is held back, for the end of a text that no stop string ended."""
        held, self._longest = self._longest, _NOTHING
        return held.text[: held.matched]


def _joined(text: str, held: int, piece: str, length: int) -> str:
    """The first `length` characters of what was held back, a beginning of `text`, and of the piece."""
    if not held:
        return piece[:length]
    return text[: min(held, length)] + piece[: max(length - held, 0)]


class _StopString:
    """One stop string, by the algorithm of Knuth, Morris and Pratt; the text ends with `matched` of it."""

    __slots__ = ("_borders", "matched", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._borders = _borders(text)

    def read(self, piece: str, before: int) -> int:
        """Where in `piece` the string is complete, if that is `before` a place; else 0."""
        text, borders, matched = self.text, self._borders, self.matched
        at, end = 0, min(len(piece), before - 1)
        while at < end:
            if not matched:
                at = piece.find(text[0], at, end)
                if at < 0:
                    break
            char = piece[at]
            while matched and text[matched] != char:
                matched = borders[matched - 1]
            matched += text[matched] == char
            at += 1
            if matched == len(text):
                self.matched = 0
                return at
        self.matched = matched
        return 0


def _borders(text: str) -> "array[int]":
    """For each beginning of `text` the length of its longest end that is a beginning too."""
    borders = array("I", bytes(4 * len(text)))
    length = 0
    for at in range(1, len(text)):
        while length and text[at] != text[length]:
            length = borders[length - 1]
        length += text[at] == text[length]
        borders[at] = length
    return borders


_NOTHING = _StopString("\0")
"""Stands for no stop string: nothing of it is ever matched."""
