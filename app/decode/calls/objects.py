"""Calls that are JSON: an object or an array of them between marks, or the arguments after a name.

JSON says itself where it ends, so that marks within its strings mean nothing. A scan goes on behind what it
has read, so the work is linear in the text.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.decode.calls.base import Passage, Reading, Schema, UpToMark
from app.decode.calls.strict import decode, decode_whole, end_of_unread, skip_space
from app.decode.reply import ParsedCall

MAX_UNREADABLE = 100
"""In one reply; behind so many all is text. Python counts a text's lines for each error it tells of."""

ARGUMENT_KEYS = ("arguments", "parameters")


def call_of(value: Any) -> ParsedCall | None:
    """The call that `value` is; Ollama takes either key, an object's text, and a call within `function`."""
    if not isinstance(value, dict):
        return None
    function = value.get("function")
    value = function if isinstance(function, dict) else value
    name = value.get("name")
    given = next((value[key] for key in ARGUMENT_KEYS if key in value), None)
    arguments = arguments_of(given)
    return ParsedCall(name, arguments) if isinstance(name, str) and name and arguments is not None else None


def call_by_key(value: Any) -> ParsedCall | None:
    """The call `{"name": {arguments}}`."""
    if not isinstance(value, dict) or len(value) != 1:
        return None
    ((name, given),) = value.items()
    arguments = arguments_of(given)
    return None if arguments is None else ParsedCall(name, arguments)


def arguments_of(given: Any) -> dict[str, Any] | None:
    """Arguments as an object or as an object's text; None where they are neither."""
    if isinstance(given, str):
        try:
            given = decode_whole(given)
        except ValueError:
            return None
    return given if isinstance(given, dict) else None


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """`opens` stands before the JSON; its groups `name` and `id`, where it has them, are the call's.

    `closes` must follow, or the next call, or the end. Where it is None anything may follow.
    """

    marks: tuple[str, ...]
    opens: re.Pattern[str]
    closes: re.Pattern[str] | None
    call: Callable[[Any], ParsedCall | None] = call_of

    def passage(self) -> Passage:
        return UpToMark(self.marks)

    def read(self, text: str, tools: Mapping[str, Schema], *, cut: bool) -> Reading:
        del tools, cut  # JSON is whole or it is none
        return _Scan(self, text).read()


class _Scan:
    def __init__(self, form: JsonCalls, text: str) -> None:
        self._form = form
        self._text = text
        self._pieces: list[str] = []
        self._reading = Reading()

    def read(self) -> Reading:
        at = passed = failed = 0
        while failed < MAX_UNREADABLE and (opened := self._form.opens.search(self._text, at)):
            calls, rest, end = self._calls(opened)
            if calls:
                self._pieces += (self._text[passed : opened.start()], rest)
                self._reading.calls += calls
                passed = end
            failed += bool(rest) or not calls
            at = max(end, opened.end(), opened.start() + 1)
        self._reading.unread = bool(failed)
        self._reading.content = "".join(self._pieces) + self._text[passed:]
        return self._reading

    def _calls(self, opened: re.Match[str]) -> tuple[list[ParsedCall], str, int]:
        """The calls behind a mark, what of them cannot be read, and where to go on."""
        at = skip_space(self._text, opened.end())
        given = opened.groupdict()
        if self._text.startswith("[", at) and not given.get("name"):
            return self._listed(at + 1)
        value, end = self._value(at)
        if name := given.get("name"):
            arguments = arguments_of(value)
            call = None if arguments is None else ParsedCall(name, arguments, given.get("id") or "")
            if end == at:
                # The mark may stand within a string of what cannot be read.
                return [], "", end_of_unread(self._text, at)
        else:
            call = self._form.call(value)
        closed = self._closed(end) if call else None
        return ([call], "", closed) if call and closed is not None else ([], "", end)

    def _value(self, at: int) -> tuple[Any, int]:
        """The value at `at` and where it ends; `at` itself, when there is none."""
        try:
            return decode(self._text, at)
        except ValueError:
            return None, at

    def _listed(self, at: int) -> tuple[list[ParsedCall], str, int]:
        """The calls in an array, one by one: a bad one does not take the others with it."""
        calls: list[ParsedCall] = []
        rest: list[str] = []
        while True:
            value, end = self._value(at)
            if end == at:
                return calls, "\n".join(rest), at
            call = self._form.call(value)
            if call is None:
                rest.append(self._text[at:end].strip())
            else:
                calls.append(call)
            at = skip_space(self._text, end) + 1
            if self._text[at - 1 : at] != ",":
                break
        closed = self._closed(at) if self._text[at - 1 : at] == "]" else None
        return (calls, "\n".join(rest), closed) if calls and closed is not None else ([], "", end)

    def _closed(self, end: int) -> int | None:
        if self._form.closes is None or end == len(self._text):
            return end
        at = skip_space(self._text, end)
        if closed := self._form.closes.match(self._text, at):
            return closed.end()
        return end if at == len(self._text) or self._form.opens.match(self._text, at) else None
