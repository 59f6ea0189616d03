"""How a log line looks: JSON for programs, text for people; and who writes them."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import orjson

LogFormat: TypeAlias = Literal["auto", "json", "text"]

FIELDS = "caravan_fields"
"""The attribute of a record that holds what a JSON line has besides the message."""

OURS = ("caravan", "app")


class JsonFormatter(logging.Formatter):
    """One object a line."""

    def __init__(self, front_end: int = 0) -> None:
        super().__init__()
        self._whose = {"front_end": front_end} if front_end else {}

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "timestamp": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._whose,
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:
            # Half of a surrogate pair, from a client's own text.
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """One line for a terminal."""

    def __init__(self, front_end: int = 0) -> None:
        whose = f"[{front_end}] " if front_end else ""
        super().__init__(f"%(asctime)s %(levelname)s {whose}%(message)s", "%H:%M:%S")


def start(form: LogFormat, *, debug: bool, front_end: int = 0) -> None:
    """Write this process's log to standard error; lines of front ends have their number (0: none)."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(form, terminal=sys.stderr.isatty(), front_end=front_end))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # It writes down each address with its query, and a signed one lets in whoever reads it.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if debug:
        for name in OURS:
            logging.getLogger(name).setLevel(logging.DEBUG)


def formatter(form: LogFormat, *, terminal: bool, front_end: int = 0) -> logging.Formatter:
    """`auto` is text on a terminal and JSON elsewhere."""
    if form == "text" or (form == "auto" and terminal):
        return TextFormatter(front_end)
    return JsonFormatter(front_end)


def adopt(name: str) -> None:
    """Have a library that set up a log of its own write to ours, at the level it chose."""
    logger = logging.getLogger(name)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = True
