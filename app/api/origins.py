"""Which web pages may call the API: the origins of docs/reference 1.3."""

import re
from collections.abc import Iterable

SCHEMES = (
    "http://",
    "https://",
    "chrome-extension://",
    "safari-extension://",
    "moz-extension://",
    "ms-browser-extension://",
)
"""What an entry without a wildcard must start with."""

LOCAL = re.compile(r"https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0)(?::[0-9]*)?")
APPS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")


class Origins:
    """The origins always allowed, and those the operator adds.

    An entry is an origin, or a pattern in which one `*` stands for any text; `*` alone allows all. An
    entry that could never match is a `ValueError`.
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        entries = [*(_checked(entry) for entry in extra), *APPS]
        self._any = "*" in entries
        self._exact = frozenset(entry.lower() for entry in entries if "*" not in entry)
        self._wild = tuple((head, tail) for head, star, tail in (e.partition("*") for e in entries) if star)

    def grant(self, origin: str) -> str | None:
        """The value of `Access-Control-Allow-Origin`; None where the origin is not allowed."""
        if self._any:
            return "*"
        allowed = origin in self._exact or LOCAL.fullmatch(origin) or self._matches_pattern(origin)
        return origin if allowed else None

    def _matches_pattern(self, origin: str) -> bool:
        """An origin names no user: what stands before an `@` is not the host that a pattern means."""
        return "@" not in origin and any(
            len(origin) >= len(head) + len(tail) and origin.startswith(head) and origin.endswith(tail)
            for head, tail in self._wild
        )


def _checked(entry: str) -> str:
    entry = entry.strip()
    if entry.count("*") > 1:
        raise ValueError(f"bad origin {entry!r}: only one * is allowed")
    if "*" not in entry and not entry.startswith(SCHEMES):
        raise ValueError(f"bad origin {entry!r}: it must contain * or start with one of {', '.join(SCHEMES)}")
    return entry
