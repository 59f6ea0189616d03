"""What a pull or push tells while it goes on (docs/reference 12.1 and 12.2)."""

from dataclasses import dataclass

INTERVAL_S = 0.06
"""A blob under way is told of no more often."""
SHOWN = slice(len("sha256:"), len("sha256:") + 12)
"""What a status shows of a digest."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One line: its `status`, and for a blob its `digest` (`sha256:` and 64 hex), its size and how much of it
    is done, in bytes."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


SUCCESS = Progress("success")


def pulling(digest: str, total: int, completed: int) -> Progress:
    return Progress(f"pulling {digest[SHOWN]}", digest, total, completed)


def pushing(digest: str, total: int, completed: int) -> Progress:
    return Progress(f"pushing {digest[SHOWN]}", digest, total, completed)
