"""What a reader of tool calls is: it takes the calls out of a text and leaves the rest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.decode.reply import ParsedCall

Schema = Mapping[str, Any]


@dataclass(slots=True)
class Reading:
    """The calls of a text and the text without them. `unread` is set where something began like a call."""

    content: str = ""
    calls: list[ParsedCall] = field(default_factory=list[ParsedCall])
    unread: bool = False


class Passage(Protocol):
    """What a stream may show of an answer: the text in front of everything that can be a call."""

    def push(self, text: str) -> str:
        """What is certain to be text, `text` being the next piece."""
        ...


class CallReader(Protocol):
    """Reads one format. It keeps nothing, so one serves every reply."""

    def passage(self) -> Passage:
        """What passes the beginning of one stream. All of it begins the content that `read` leaves."""
        ...

    def read(self, text: str, tools: Mapping[str, Schema], *, cut: bool) -> Reading:
        """Takes the calls out of `text`, which is the whole answer or was `cut` off by the token limit."""
        ...


def schemas(tools: Iterable[Mapping[str, Any]]) -> dict[str, Schema]:
    """What each tool's parameters may be, by the tool's name."""
    functions = (tool.get("function") or {} for tool in tools)
    return {each.get("name") or "": each.get("parameters") or {} for each in functions}


class UpToMark:
    """Passes text up to the first mark, from where on nothing is certain."""

    def __init__(self, marks: Sequence[str]) -> None:
        self._marks = marks
        self._longest = max(map(len, marks))
        self._held = ""
        self._begun = False

    def push(self, text: str) -> str:
        if self._begun:
            return ""
        text = self._held + text
        found = [at for mark in self._marks if (at := text.find(mark)) >= 0]
        if found:
            self._begun, self._held = True, ""
            return text[: min(found)]
        kept = self._beginning_of_mark(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def _beginning_of_mark(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a mark."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(mark.startswith(text[-length:]) for mark in self._marks):
                return length
        return 0


class AtStart:
    """Passes everything, unless the reply begins with a mark."""

    def __init__(self, marks: Sequence[str]) -> None:
        self._marks = marks
        self._held = ""
        self._begun: bool | None = None

    def push(self, text: str) -> str:
        if self._begun is None:
            text = self._held + text
            start = text.lstrip()
            self._begun = any(start.startswith(mark) for mark in self._marks) or None
            if self._begun is None and not any(mark.startswith(start) for mark in self._marks):
                self._begun = False
            self._held = text
        return text if self._begun is False else ""
