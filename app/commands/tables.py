"""The server's lists as tables, in the columns of Ollama's command line (docs/reference 19.2)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from app.commands.failure import CommandFailed, one_line
from app.commands.server import Event
from app.commands.sizes import since_text, size_text

_ID_CHARS = 12


def models_table(document: Event, now: datetime) -> list[str]:
    """The lines of `/api/tags`."""
    rows = [
        (
            _text(row, "name"),
            _text(row, "digest")[:_ID_CHARS],
            "-" if _text(row, "remote_model") else size_text(_number(row, "size")),
            _since(row, "modified_at", now),
        )
        for row in _rows(document)
    ]
    return table(("NAME", "ID", "SIZE", "MODIFIED"), rows)


def running_table(document: Event, now: datetime) -> list[str]:
    """The lines of `/api/ps`."""
    rows = [
        (
            _text(row, "name"),
            _text(row, "digest")[:_ID_CHARS],
            size_text(_number(row, "size")),
            _processor(_number(row, "size"), _number(row, "size_vram")),
            str(_number(row, "context_length")),
            _until(row, now),
        )
        for row in _rows(document)
    ]
    return table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, four spaces apart."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "    ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _rows(document: Event) -> list[Mapping[str, Any]]:
    """Raises: CommandFailed: for an answer that has no list of models."""
    rows = document.fields.get("models", document)
    if rows is None:
        return []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CommandFailed("the server answered something other than a list of models")
    return rows


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return one_line(value) if isinstance(value, str) else ""


def _number(row: Mapping[str, Any], key: str) -> int:
    value = row.get(key)
    return value if type(value) is int and value >= 0 else 0


def _moment(row: Mapping[str, Any], key: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(_text(row, key))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _since(row: Mapping[str, Any], key: str, now: datetime) -> str:
    moment = _moment(row, key)
    return "-" if moment is None else since_text(moment, now)


def _until(row: Mapping[str, Any], now: datetime) -> str:
    moment = _moment(row, "expires_at")
    return "Stopping..." if moment is not None and moment < now else _since(row, "expires_at", now)


def _processor(size: int, on_gpu: int) -> str:
    if on_gpu == 0:
        return "100% CPU"
    if on_gpu >= size:
        return "100% GPU"
    on_cpu = round((size - on_gpu) / size * 100)
    return f"{on_cpu}%/{100 - on_cpu}% CPU/GPU"
