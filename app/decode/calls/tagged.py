"""Calls whose arguments stand between tags, unescaped, as Qwen3-Coder and GLM write them.

Nothing marks a tag within an argument as text, so the end of an argument is found by what follows it: the
next parameter that the tool has, or the end of the call. Calls within an argument are followed to their own
end. Wherever a second reading is left, the call stays text: half an argument does harm, a text does not.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from app.decode.calls.base import Passage, Reading, Schema, UpToMark
from app.decode.calls.strict import skip_space
from app.decode.calls.typed import json_or_text, typed
from app.decode.reply import ParsedCall


def as_line(text: str) -> str:
    """The template sets a value on lines of its own."""
    return text.removeprefix("\n").removesuffix("\n")


def verbatim(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class TaggedCalls:
    """The tags of one format, as regular expressions that hold no unnamed group.

    `opens` has the group `name`. `parameter`, up to the value, has `key`, and may have `string`, which says
    whether the value is text or JSON. `wrapper` is what stands before `opens`, with or without a call in it.
    """

    marks: tuple[str, ...]
    opens: str
    parameter: str
    ends: str
    closes: str
    wrapper: str
    trim: Callable[[str], str] = as_line

    def passage(self) -> Passage:
        return UpToMark(self.marks)

    def read(self, text: str, tools: Mapping[str, Schema], *, cut: bool) -> Reading:
        return _Scan(self, text, tools).read(cut=cut)

    def tokens(self, text: str) -> Iterator[re.Match[str]]:
        kinds = {"call": self.opens, "parameter": self.parameter, "end": self.ends, "close": self.closes}
        parts = [f"(?P<_{kind}>{tag})" for kind, tag in (*kinds.items(), ("wrapper", self.wrapper))]
        return re.compile("|".join(parts)).finditer(text)


@dataclass(slots=True)
class _Call:
    """A call that is being read. `torn` is set once it can only be text."""

    start: int
    name: str
    schema: Schema
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    key: str | None = None
    as_text: str | None = None
    value_at: int = 0
    depth: int = 0
    torn: bool = False

    def knows(self, key: str) -> bool:
        properties = self.schema.get("properties")
        return key not in self.arguments and (not properties or key in properties)


class _Scan:
    """One pass over the tags of a text."""

    def __init__(self, form: TaggedCalls, text: str, tools: Mapping[str, Schema]) -> None:
        self._form, self._text, self._tools = form, text, tools
        self._call: _Call | None = None
        self._read: list[tuple[ParsedCall, int, int]] = []
        self._at = 0
        self._excused = True
        self._unread = False

    def read(self, *, cut: bool) -> Reading:
        for token, following in pairwise((*self._form.tokens(self._text), None)):
            assert token is not None
            if self._call is None:
                self._outside(token)
            elif self._call.torn:
                self._pass(self._call, token)
            elif self._call.key is None:
                self._between(self._call, token)
            else:
                self._within(self._call, token, following)
        tail = self._text[self._at :].strip()
        if self._call is None and (tail.startswith("</") or (cut and not self._begins_call(tail))):
            # It may belong to an argument that quotes the end of a call and is cut off itself.
            self._doubt()
        return self._reading()

    def _reading(self) -> Reading:
        pieces, at = list[str](), 0
        for _, start, end in self._read:
            pieces.append(self._text[at:start])
            at = end
        calls = [call for call, _, _ in self._read]
        return Reading("".join(pieces) + self._text[at:], calls, self._unread or self._call is not None)

    def _doubt(self) -> None:
        """Where an end is left over, any call before it may have ended too soon."""
        self._unread = self._unread or bool(self._read)
        self._read.clear()

    def _begins_call(self, tail: str) -> bool:
        return self._excused or any(mark.startswith(tail) for mark in self._form.marks)

    def _outside(self, token: re.Match[str]) -> None:
        match _kind(token):
            case "call":
                name = token["name"].strip()
                self._call = _Call(token.start(), name, self._tools.get(name) or {})
                self._at = token.end()
            case "wrapper":
                self._excused = self._unread = True
            case _ if not self._excused:
                self._doubt()
            case _:
                pass

    def _between(self, call: _Call, token: re.Match[str]) -> None:
        """Before a parameter or the end of the call there is nothing but white space."""
        kind = _kind(token)
        if skip_space(self._text, self._at) != token.start() or kind not in ("parameter", "close"):
            call.torn = True
            self._pass(call, token)
        elif kind == "close":
            self._end(call, token)
        else:
            key = token["key"].strip()
            call.torn = not call.knows(key)
            call.key, call.as_text, call.value_at = key, token.groupdict().get("string"), token.end()

    def _within(self, call: _Call, token: re.Match[str], following: re.Match[str] | None) -> None:
        match _kind(token):
            case "call":
                call.depth += 1
            case "close":
                call.depth = max(call.depth - 1, 0)
            case "parameter" if (
                not call.depth and call.knows(token["key"].strip()) and token["key"] != call.key
            ):
                call.torn = True
            case "end" if not call.depth and self._ends_value(token, following):
                self._take(call, token)
            case _:
                pass

    def _ends_value(self, token: re.Match[str], following: re.Match[str] | None) -> bool:
        if following is None or skip_space(self._text, token.end()) != following.start():
            return False
        return _kind(following) in ("parameter", "close")

    def _take(self, call: _Call, token: re.Match[str]) -> None:
        text = self._form.trim(self._text[call.value_at : token.start()])
        key = call.key or ""
        if call.as_text is None:
            call.arguments[key] = typed(text, call.schema, key)
        else:
            call.arguments[key] = text if call.as_text == "true" else json_or_text(text)
        call.key, self._at = None, token.end()

    def _end(self, call: _Call, token: re.Match[str]) -> None:
        self._read.append((ParsedCall(call.name, call.arguments), call.start, token.end()))
        self._call, self._at, self._excused = None, token.end(), False

    def _pass(self, call: _Call, token: re.Match[str]) -> None:
        """A call that is text goes on to its own end."""
        match _kind(token):
            case "call":
                call.depth += 1
            case "close" if call.depth:
                call.depth -= 1
            case "close":
                self._call, self._at, self._excused, self._unread = None, token.end(), False, True
            case _:
                pass


def _kind(token: re.Match[str]) -> str:
    # The alternative that matched encloses the groups in it, so it is the last to end.
    return (token.lastgroup or "_")[1:]
