"""docs/openai.md tells of every field that is read, and names tests that exist."""

import re
from pathlib import Path

import pytest

from app.api.openai.extras import (
    CHAT_EXTRAS,
    CHAT_HONOURED,
    CHAT_REFUSED,
    COMPLETION_EXTRAS,
    COMPLETION_HONOURED,
    HONOURED,
    IGNORED_BY_OLLAMA,
    NO_OPS,
    REFUSED,
)

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "openai.md").read_text("utf-8")
CHAT, COMPLETIONS = (
    DOCUMENT.split(f"\n## `POST /v1/{name}`")[1].split("\n## ")[0]
    for name in ("chat/completions", "completions")
)


def told(section: str, state: str) -> set[str]:
    """The fields of the rows that are in this state."""
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows if row[1] == state for name in re.findall(r"`([\w]+)`", row[0])}


@pytest.mark.parametrize(
    ("state", "names"),
    [
        ("honoured", (*HONOURED, *CHAT_HONOURED)),
        ("no-op", (*NO_OPS, *IGNORED_BY_OLLAMA)),
        ("refused", (*REFUSED, *CHAT_REFUSED)),
    ],
)
def test_every_field_of_a_chat_is_told(state: str, names: tuple[str, ...]) -> None:
    found = told(CHAT, state)
    assert set(names) <= found
    if state != "honoured":
        assert found == set(names)


def test_every_field_of_completions_alone_is_told() -> None:
    assert set(COMPLETION_HONOURED) <= told(COMPLETIONS, "honoured") | told(COMPLETIONS, "refused")
    assert set(CHAT_EXTRAS) - set(COMPLETION_EXTRAS) == set(CHAT_HONOURED)


def test_every_test_that_is_named_exists() -> None:
    files = (ROOT / "tests").rglob("test_*.py")
    known = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))}
    assert set(re.findall(r"`(test_\w+)`", DOCUMENT)) - known == set()
