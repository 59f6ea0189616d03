"""Calls that are JSON objects without any mark around them, as Llama 3 writes them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.decode.calls.base import Passage, Reading, Schema, UpToMark
from app.decode.calls.objects import call_of
from app.decode.calls.strict import decode

_OPENS = re.compile(r'\{(?=\s{0,64}")')
_MAY_OPEN = re.compile(r"\{\s{0,64}\Z")
_TAG = "<|python_tag|>"


@dataclass(frozen=True, slots=True)
class BareCalls:
    """Objects in text, with semicolons between; a tag that says nothing may stand before them.

    Within an object that cannot be read nothing is told apart: from there on all is text.
    """

    def passage(self) -> Passage:
        return _BeforeObjects()

    def read(self, text: str, tools: Mapping[str, Schema], *, cut: bool) -> Reading:
        del tools, cut  # JSON is whole or it is none
        reading, pieces, at, passed = Reading(), list[str](), 0, 0
        while opened := _OPENS.search(text, at):
            try:
                value, at = decode(text, opened.start())
            except ValueError:
                reading.unread = True
                break
            if call := call_of(value):
                reading.calls.append(call)
                pieces.append(text[passed : opened.start()])
                passed = at
        pieces.append(text[passed:])
        if reading.calls:
            pieces[1:] = [piece for piece in pieces[1:] if piece.strip(" ;\n")]
            reading.content = "".join(pieces).replace(_TAG, "")
        else:
            reading.content = text
        return reading


class _BeforeObjects:
    """Passes the text before the first object, a brace without a key being none, and before the tag."""

    def __init__(self) -> None:
        self._tag = UpToMark((_TAG,))
        self._held = ""
        self._begun = False

    def push(self, text: str) -> str:
        if self._begun:
            return ""
        text = self._held + self._tag.push(text)
        opened = _OPENS.search(text)
        self._begun = opened is not None
        if found := opened or _MAY_OPEN.search(text, max(text.rfind("{"), 0)):
            self._held = text[found.start() :]
            return text[: found.start()]
        self._held = ""
        return text
