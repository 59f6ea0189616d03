"""What a body says: its title, text and links.

Runs in a process of its own (`reader.py`): the parsers behind it take any time and memory with bodies that
are made for it, and a thread could not be stopped.
"""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from app.tools.charsets import decode
from app.tools.visits import urls_in
from app.tools.words import one_line, printable

TITLE_CHARS = 300
LINK_CHARS = 2048
_SNIFFED_BYTES = 1024
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_PDF = frozenset({"application/pdf", "application/x-pdf"})
_TEXT = frozenset(
    {
        "application/json",
        "application/xml",
        "application/javascript",
        "application/ecmascript",
        "application/yaml",
        "application/x-yaml",
        "application/toml",
        "application/sql",
        "application/graphql",
        "application/rtf",
        "application/x-ndjson",
        "application/x-sh",
        "application/x-tex",
    }
)
_UNTOLD = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/unknown"})
READABLE = ("text/*", "*/*+json", "*/*+xml", *sorted(_HTML | _PDF | _TEXT | _UNTOLD))
"""Patterns of the media types that are read; where none is told, the body decides."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """How much is read of a body.

    `chars` and `links` are what is given of it, `pages` those of a PDF, `parse_s` processor time for a parser
    before simpler means are tried or what is there is given, `time_s` until the process is killed,
    `memory_bytes` its address space.
    """

    chars: int = 200_000
    links: int = 500
    pages: int = 200
    parse_s: float = 6.0
    time_s: float = 20.0
    memory_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was read; `links` are absolute http and https addresses without fragments, each once."""

    title: str
    text: str
    links: tuple[str, ...] = ()
    is_truncated: bool = False


class Unreadable(Exception):
    """A body that nothing is read of; the text says why, in one line."""


class OutOfTime(BaseException):
    """A parser has used its time. No Exception, which the parsers themselves would catch."""


@contextmanager
def budget(seconds: float) -> Generator[None]:
    """Raise `OutOfTime` in the block, and again where that is lost, once it has used so much processor time.

    In the main thread alone. Code in C is interrupted only when it returns.
    """

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, stop)
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def extract(body: bytes, media_type: str, charset: str, url: str, limits: ReadLimits) -> Extracted:
    """Read `body`, which came from `url` with a lower-case `media_type` and a `charset`, both perhaps "".

    JSON, XML, CSV and other text are given as they came: to write them anew would lose what parsers drop
    (double keys, digits).

    Raises:
        Unreadable: where it is of another kind, damaged or encrypted.
    """
    from app.tools import markup, pdf  # not before they are needed: this module is imported by the server too

    kind = _kind(body, media_type)
    if kind == "pdf":
        return pdf.read(body, limits)
    text = decode(body, charset, is_html=kind == "html")
    if kind == "html":
        return markup.read(text, url, limits)
    return plain("", text, limits)


def plain(title: str, text: str, limits: ReadLimits, *, is_truncated: bool = False) -> Extracted:
    """`text` within the limits, its links those that stand in it."""
    text, was_cut = cut(printable(text), limits.chars)
    links = tuple(urls_in(text, limits.links))
    return Extracted(one_line(title, TITLE_CHARS), text, links, is_truncated or was_cut)


def cut(text: str, chars: int) -> tuple[str, bool]:
    """The first `chars` of `text`, and whether there was more."""
    return text[:chars].strip(), len(text) > chars


def _kind(body: bytes, media_type: str) -> str:
    head = body[:_SNIFFED_BYTES].lstrip().lower()
    if head.startswith(b"%pdf-"):
        return "pdf"
    if media_type in _PDF and b"%pdf-" in head:
        return "pdf"
    if media_type in _HTML:
        return "html"
    if media_type in _UNTOLD or media_type in _PDF:
        return _sniffed(head, media_type)
    if media_type.startswith("text/") or media_type in _TEXT or media_type.endswith(("+json", "+xml")):
        return "text"
    raise Unreadable(f"the page is {one_line(media_type, 100)}, which cannot be read as text")


def _sniffed(head: bytes, media_type: str) -> str:
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in head:
        return "html"
    if b"\0" not in head or head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text"
    told = f"said to be {one_line(media_type, 100)}" if media_type else "of no stated type"
    raise Unreadable(f"the page is {told} and cannot be read as text")
