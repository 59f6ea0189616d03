"""Calls that are JSON objects without any mark around them, as Llama 3 writes them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.decode.calls.base import Reading, Schema
from app.decode.calls.objects import call_of
from app.decode.calls.strict import decode

_OPENS = re.compile(r'\{(?=\s*")')


@dataclass(frozen=True, slots=True)
class BareCalls:
    """Objects in text, with semicolons between. `tag` may stand before the first and says nothing.

    Within an object that cannot be read nothing is told apart: from there on all is text.
    """

    tag: str = "<|python_tag|>"

    @property
    def marks(self) -> tuple[str, ...]:
        return "{", self.tag

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
            pieces = [piece for piece in pieces if piece.strip(" ;\n")]
        reading.content = "".join(pieces)
        if reading.calls:
            reading.content = reading.content.replace(self.tag, "")
        return reading
