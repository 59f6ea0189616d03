"""Modelfiles: what `ollama create` reads and `ollama show --modelfile` prints (docs/reference 20)."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from app.core.errors import InvalidRequest

DEPRECATED = frozenset(
    {
        *("penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock"),
        *("mirostat", "mirostat_tau", "mirostat_eta"),
    }
)
"""Parameters that are read and dropped, with a warning."""

_COMMANDS = frozenset(
    {
        *("from", "license", "template", "system", "adapter", "draft", "renderer", "parser"),
        *("parameter", "message", "requires"),
    }
)
_ROLES = ("system", "user", "assistant")
_BAD_COMMAND = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", "renderer", '
    '"parser", "parameter", "message", or "requires"'
)
_BAD_ROLE = 'message role must be one of "system", "user", or "assistant"'
_UNENDED = "unexpected EOF"
_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_SEMVER = re.compile(
    r"v?(0|[1-9]\d*)(\.(0|[1-9]\d*)(\.(0|[1-9]\d*)"
    r"(-(?:0|[1-9]\d*|\d*[a-zA-Z-][\w-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][\w-]*))*)?(\+[\w-]+(\.[\w-]+)*)?)?)?",
    re.ASCII,
)
_NEXT = "\nFROM x"
_QUOTES = ('"""', '"')


class BadModelfile(InvalidRequest):
    """A text that is no Modelfile, in Ollama's words; `line` says where, which few of them do, 0 nowhere."""

    def __init__(self, reason: str, line: int = 0) -> None:
        self.line = line
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Command:
    """One command: `name` in lower case, `key` the parameter's name or the message's role, else empty.

    `line` is where it was read, from 1 on; 0 for one that was not.
    """

    name: str
    value: str
    key: str = ""
    line: int = field(default=0, compare=False)


def parse_modelfile(text: str | bytes) -> list[Command]:
    """The commands of a Modelfile, in order.

    Raises:
        BadModelfile: for what is none.
    """
    return _Reader(decoded(text) if isinstance(text, bytes) else text).read()


def format_modelfile(commands: Iterable[Command]) -> str:
    """A Modelfile that reads as these commands, quoted where Ollama quotes and where the value needs it.

    A value that no quotes can hold is written as Ollama writes it: one with lines that end in quotes, or with
    characters that cannot be printed.
    """
    return "".join(f"{_line(command)}\n" for command in commands)


def quoted(value: str) -> str:
    """A value as it stands in a Modelfile."""
    one, three = f'"{value}"', f'"""{value}"""'
    preferred = three if '"' in value else one
    ollamas = preferred if "\n" in value or value != value.strip(" ") else value
    return next((form for form in (ollamas, preferred, one) if _reads_as(form) == value), ollamas)


def decoded(data: bytes) -> str:
    """A file's text: UTF-8, or UTF-16 with its mark. What is no text becomes U+FFFD, as with Ollama."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return data.decode("utf-8", "replace")


def read_values(commands: Iterable[Command], types: Mapping[str, str]) -> dict[str, Any]:
    """The PARAMETER commands by key, typed for `/api/create`; `types` says what each key is.

    These are `integer`, `float32`, `boolean` and `array`. `DEPRECATED` ones are left out.

    Raises:
        InvalidRequest: for an unknown key, or a value of another type, in Ollama's words.
    """
    values: dict[str, Any] = {}
    for command in commands:
        if command.name != "parameter" or command.key in DEPRECATED:
            continue
        kind = types.get(command.key)
        if kind is None:
            raise InvalidRequest(f"unknown parameter '{command.key}'")
        if kind == "array":
            values.setdefault(command.key, []).append(command.value)
        else:
            values[command.key] = _READERS[kind](command.value)
    return values


def read_requires(value: str) -> str:
    """A version without a leading `v`.

    Raises:
        InvalidRequest: where it is none.
    """
    if not _SEMVER.fullmatch(value):
        raise InvalidRequest("requires must be a valid semver (e.g. 0.14.0)")
    return value.removeprefix("v")


def _line(command: Command) -> str:
    name = command.name.upper()
    return " ".join(
        (name, command.key, quoted(command.value)) if command.key else (name, quoted(command.value))
    )


def _reads_as(form: str) -> str | None:
    """What a value in this form reads as, where it is one; None where it does not end."""
    reader = _Reader(form + _NEXT)
    try:
        value = reader.value()
    except InvalidRequest:
        return None
    return value if reader.rest() == _NEXT else None


class _Reader:
    """One reading of a text, from its beginning, in time that grows with its length alone."""

    def __init__(self, text: str) -> None:
        self._text = "".join(char for char in text if char.isprintable() or char in "\t\r\n")
        self._at = 0
        self._line, self._counted = 1, 0

    def read(self) -> list[Command]:
        commands: list[Command] = []
        while self._skip_to_command():
            # Counted on from the last one, or many lines would take the square of their number.
            self._line += self._text.count("\n", self._counted, self._at)
            self._counted = self._at
            commands.append(self._command())
        if not any(command.name == "from" for command in commands):
            raise BadModelfile("no FROM line")
        return commands

    def rest(self) -> str:
        return self._text[self._at :]

    def value(self) -> str:
        """The rest of the line, or up to the line whose end closes the quotes that it begins with."""
        begin = line = _past(_SPACES, self._text, self._at)
        quote = next((quote for quote in _QUOTES if self._text.startswith(quote, begin)), "")
        end = begin
        while True:
            line_end = _past(_TO_LINE_END, self._text, line)
            if text := self._text[line:line_end].rstrip():
                end = line + len(text)
            if not quote or (end - begin >= 2 * len(quote) and self._text.endswith(quote, begin, end)):
                break
            if line_end == len(self._text):
                raise BadModelfile(_UNENDED, self._line)
            line = line_end + 1
        self._at = line_end
        return self._text[begin + len(quote) : end - len(quote)]

    def _skip_to_command(self) -> bool:
        self._at = _past(_BLANK, self._text, self._at)
        return self._at < len(self._text)

    def _command(self) -> Command:
        match = _NAME.match(self._text, self._at)
        if match is None:
            if _past(_LETTERS, self._text, self._at) == len(self._text):
                raise BadModelfile(_UNENDED, self._line)
            self._fail(_BAD_COMMAND)
        name = match[1].lower()
        if name not in _COMMANDS:
            self._fail(_BAD_COMMAND)
        self._at = match.end()
        key = self._key() if name in ("message", "parameter") else ""
        if name == "message" and key not in _ROLES:
            self._fail(_BAD_ROLE)
        return Command(name, self.value(), key, self._line)

    def _key(self) -> str:
        """The name of a parameter or a role, which has a space behind it."""
        match = _KEY.match(self._text, self._at)
        assert match is not None
        if self._text[match.end() : match.end() + 1] not in (" ", "\t"):
            reason = f"{_UNENDED}: {match[1]}" if match.end() < len(self._text) else _UNENDED
            raise BadModelfile(reason, self._line)
        self._at = match.end() + 1
        return match[1]

    def _fail(self, reason: str) -> NoReturn:
        raise BadModelfile(f"(line {self._line}): {reason}", self._line)


_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_SPACES = re.compile(r"[ \t]*")
_TO_LINE_END = re.compile(r"[^\r\n]*")
_LETTERS = re.compile(r"[A-Za-z]+|")
_NAME = re.compile(r"([A-Za-z]+)[ \t]")
_KEY = re.compile(r"[ \t]*(\w*)", re.ASCII)


def _past(pattern: "re.Pattern[str]", text: str, at: int) -> int:
    """Where a pattern ends that fits anywhere, if only as nothing."""
    match = pattern.match(text, at)
    assert match is not None
    return match.end()


def _read_int(value: str) -> int:
    if re.fullmatch(r"[+-]?\d+", value, re.ASCII) and -(2**63) <= (number := int(value[:64])) < 2**63:
        return number
    raise InvalidRequest(f"invalid int value [{value}]")


def _read_float(value: str) -> float:
    try:
        if "_" in value or value != value.strip():
            raise ValueError
        return float(value)
    except ValueError:
        raise InvalidRequest(f"invalid float value [{value}]") from None


def _read_bool(value: str) -> bool:
    if value in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if value in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise InvalidRequest(f"invalid bool value [{value}]")


_READERS: Mapping[str, Callable[[str], Any]] = {
    "integer": _read_int,
    "float32": _read_float,
    "boolean": _read_bool,
}
