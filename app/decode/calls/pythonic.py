"""Calls that are written as Python: `[f(a=1), g(b="x")]`."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.decode.calls.base import AtStart, Passage, Reading, Schema, UpToMark
from app.decode.calls.strict import MAX_NESTING, number
from app.decode.reply import ParsedCall

_TOKEN = re.compile(r"""(?P<quote>['"])|(?P<opens>[(\[{])|(?P<closes>[)\]}])|(?P<between>[,\n])""")
_POWER = re.compile(r"""(?P<quote>['"])|(?<![\w.])(?P<power>[\d.]+[eE][+-]?\d+)""")
_STRING = {
    quote: re.compile(rf"{quote}(?:[^{quote}\\\n]|\\.)*+(?P<ends>{quote})?", re.DOTALL) for quote in "'\""
}
_PAIRS = {")": "(", "]": "[", "}": "{"}
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, slots=True)
class PythonicCalls:
    """A list of calls behind `opens` and before `closes`; without brackets a line is a call.

    Where nothing but the list marks calls, they stand `at_start` of the reply.
    """

    marks: tuple[str, ...]
    opens: re.Pattern[str]
    closes: re.Pattern[str]
    bracketed: bool = True
    at_start: bool = False

    def passage(self) -> Passage:
        return AtStart(self.marks) if self.at_start else UpToMark(self.marks)

    def read(self, text: str, tools: Mapping[str, Schema], *, cut: bool) -> Reading:
        del tools, cut  # what the brackets enclose is whole
        reading, at = Reading(), 0
        while opened := self.opens.search(text, at):
            end = self._end(text, opened.end())
            closed = self.closes.match(text, end) if end is not None else None
            if end is None or closed is None:
                reading.unread = True
                break
            calls, rest = _calls(text[opened.end() : end - self.bracketed])
            reading.unread = reading.unread or bool(rest)
            reading.calls += calls
            reading.content += text[at : opened.start()] + (
                rest if calls else text[opened.start() : closed.end()]
            )
            at = closed.end()
        reading.content += text[at:]
        return reading

    def _end(self, text: str, at: int) -> int | None:
        return _end_of_list(text, at) if self.bracketed else _end_of_lines(text, at, self.closes)


def _end_of_list(text: str, at: int) -> int | None:
    """The place behind the bracket that closes the list which `at` is in."""
    open_brackets = ["["]
    for token in _outside_strings(_TOKEN, text, at):
        if token["opens"]:
            open_brackets.append(token["opens"])
        elif token["closes"] and open_brackets.pop() != _PAIRS[token["closes"]]:
            return None
        if not open_brackets:
            return token.end()
    return None


def _end_of_lines(text: str, at: int, closes: re.Pattern[str]) -> int | None:
    """The first closing mark that no string holds."""
    pattern = re.compile(f"(?P<closing>{closes.pattern})|{_TOKEN.pattern}", re.DOTALL)
    tokens = _outside_strings(pattern, text, at)
    return next((token.start() for token in tokens if token["closing"]), None)


def _outside_strings(pattern: re.Pattern[str], text: str, at: int = 0) -> Iterator[re.Match[str]]:
    """What `pattern` finds in no string; its group `quote` is where one may begin.

    A string that never ends is none, and no quote that it escapes begins one that does: these are not tried
    again, which would take the square of their number.
    """
    endless_to = dict.fromkeys(_STRING, 0)
    while token := pattern.search(text, at):
        at, quote = token.end(), token["quote"]
        if not quote:
            yield token
        elif at > endless_to[quote] and (string := _STRING[quote].match(text, token.start())):
            if string["ends"]:
                at = string.end()
            else:
                endless_to[quote] = string.end()


def _calls(text: str) -> tuple[list[ParsedCall], str]:
    """The calls that are listed in `text`, and what of it is none."""
    calls, rest = list[ParsedCall](), list[str]()
    for piece in _pieces(text):
        call = _call(piece.strip())
        if call is not None:
            calls.append(call)
        elif piece.strip():
            rest.append(piece.strip())
    return calls, "\n".join(rest)


def _pieces(text: str) -> Iterator[str]:
    """`text` cut at the commas and line ends that no bracket encloses."""
    depth = start = 0
    for token in _outside_strings(_TOKEN, text):
        depth += bool(token["opens"]) - bool(token["closes"])
        if token["between"] and not depth:
            yield text[start : token.start()]
            start = token.end()
    yield text[start:]


def _call(text: str) -> ParsedCall | None:
    if sum(map(text.count, "([{-+")) > MAX_NESTING and _deepest(text) > MAX_NESTING:
        return None
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.Call) or tree.args:
            return None
        arguments = {each.arg or "": _value(each.value) for each in tree.keywords}
        name = ast.unparse(tree.func)
        if "" in arguments or not re.fullmatch(r"[\w.]+", name) or len(arguments) < len(tree.keywords):
            return None
        for found in _outside_strings(_POWER, text):
            number(found["power"])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return ParsedCall(name, arguments)


def _deepest(text: str) -> int:
    depth = deepest = 0
    for token in _outside_strings(_TOKEN, text):
        depth += bool(token["opens"]) - bool(token["closes"])
        deepest = max(deepest, depth)
    return deepest


def _value(node: ast.expr) -> Any:
    """The value of a literal.

    Raises:
        ValueError: it is none, or JSON has no such value.
    """
    match node:
        case ast.Constant(value=str() | bool() | None | int() | float() as value):
            return _whole(value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -_value(node.operand) if not isinstance(value, bool) else _refuse(node)
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case _:
            return _refuse(node)


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        value.encode()
    return number(repr(value)) if isinstance(value, float) else value


def _key(node: ast.expr | None) -> str:
    key = _value(node) if node else None
    return key if isinstance(key, str) else _refuse(node)


def _refuse(node: ast.AST | None) -> Any:
    raise ValueError(f"no literal: {type(node).__name__}")
