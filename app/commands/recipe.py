"""What a Modelfile asks of a server: a request to create, and local files (docs/reference 20)."""

import math
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.catalogue.names import parse_name
from app.catalogue.parameters import OPTIONS
from app.commands.failure import CommandFailed, one_line
from app.commands.files import find_files
from app.core.errors import InvalidRequest
from app.store.modelfile import (
    DEPRECATED,
    BadModelfile,
    Command,
    parse_modelfile,
    read_requires,
    read_values,
)

_TYPES: Mapping[str, str] = {name: option.type for name, option in OPTIONS.items()}
_LAST_COUNTS = ("template", "system", "renderer", "parser")
_FILES = {"from": "files", "adapter": "adapters", "draft": "draft_files"}
_PATHS = ("/", "./", "../", "~")
_WEIGHTS = (".gguf", ".safetensors", ".bin")


@dataclass(frozen=True, slots=True)
class Recipe:
    """`body` is the request without `model` and files; `files` are local ones by field and name.

    `warnings` are lines that change nothing.
    """

    body: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Path]]
    warnings: tuple[str, ...] = ()


def read_recipe(text: bytes, folder: Path) -> Recipe:
    """Read a Modelfile whose relative paths start from `folder`.

    Raises:
        CommandFailed: with the number of the line.
    """
    try:
        commands = parse_modelfile(text)
    except BadModelfile as error:
        raise _at(error.line, str(error)) from error
    body, files = _sources(commands, folder)
    body |= _texts(commands)
    if parameters := _parameters(commands):
        body["parameters"] = parameters
    warnings = tuple(
        f"(line {command.line}): the parameter {command.key} is deprecated and left out"
        for command in commands
        if command.name == "parameter" and command.key in DEPRECATED
    )
    return Recipe(body, files, warnings)


def _sources(commands: Iterable[Command], folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Path]]]:
    """The model that is built on, and files: a path that is there stands before a name, as with Ollama."""
    body: dict[str, Any] = {}
    files: dict[str, dict[str, Path]] = {}
    for command in commands:
        field = _FILES.get(command.name)
        if field is None:
            continue
        path = _path(command.value, folder)
        if _is_there(path):
            found = _found(command, path)
            if field == "adapters" and field in files:
                raise _at(command.line, "only one adapter is currently supported")
            if twice := sorted(found.keys() & files.get(field, {}).keys()):
                raise _at(command.line, f"there are two files of the name {twice[0]}")
            files.setdefault(field, {}).update(found)
        elif field == "files" and not _is_path(command.value):
            with _line(command, f"FROM {command.value}: "):
                parse_name(command.value)
            body["from"] = command.value
        else:
            raise _at(command.line, f"there is no file or folder {path}")
        # A server would leave the files out in silence.
        if "from" in body and "files" in files:
            raise _at(command.line, f"FROM names files, and the model {body['from']} too")
    return body, files


def _texts(commands: Iterable[Command]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for command in commands:
        name, value = command.name, command.value
        if name in _LAST_COUNTS:
            body[name] = value
        elif name == "license":
            body.setdefault("license", []).append(value)
        elif name == "message":
            body.setdefault("messages", []).append({"role": command.key, "content": value})
        elif name == "requires":
            with _line(command):
                body["requires"] = read_requires(value)
    return body


def _parameters(commands: Iterable[Command]) -> dict[str, Any]:
    found = [command for command in commands if command.name == "parameter"]
    for command in found:
        with _line(command):
            value = read_values([command], _TYPES).get(command.key)
            if isinstance(value, float) and not math.isfinite(value):  # JSON has no such number
                raise InvalidRequest(f"invalid float value [{command.value}]")
    return read_values(found, _TYPES)


def _found(command: Command, path: Path) -> dict[str, Path]:
    try:
        return find_files(path, is_adapter=command.name == "adapter")
    except CommandFailed as error:
        raise _at(command.line, str(error)) from error


def _path(value: str, folder: Path) -> Path:
    try:
        return folder / Path(value).expanduser()
    except RuntimeError:  # `~nobody`
        return folder / value


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # as of a name that is too long
        return False


def _is_path(value: str) -> bool:
    return value.startswith(_PATHS) or value.lower().endswith(_WEIGHTS)


@contextmanager
def _line(command: Command, before: str = "") -> Generator[None]:
    """Says on which line of the Modelfile a value is wrong."""
    try:
        yield
    except InvalidRequest as error:
        raise _at(command.line, f"{before}{error}") from error


def _at(line: int, reason: str) -> CommandFailed:
    reason = one_line(reason)
    return CommandFailed(reason if not line or reason.startswith("(line ") else f"(line {line}): {reason}")
