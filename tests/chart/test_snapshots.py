"""What the chart renders for each way to use it, as reviewed: `make snapshots` writes it anew.

That of the chart's own values stands in full, each other one as its difference from that. Files of the chart
that are rendered word for word stand in them as their name alone.
"""

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from tests.chart.helm import CHART, VALUES, template

pytestmark = pytest.mark.row("C2")

WHOLE = {file.name: file.read_text().splitlines() for file in sorted((CHART / "files").iterdir())}
BASE = CHART / "ci" / "default-values.yaml"
OTHERS = [values for values in VALUES if values != BASE]
CONTEXT = 3
"""Lines around a difference."""


class Rendered(SingleFileSnapshotExtension):
    _write_mode = WriteMode.TEXT
    file_extension = "yaml"


class Difference(Rendered):
    file_extension = "diff"


def test_what_is_rendered_by_default(snapshot: SnapshotAssertion) -> None:
    assert shortened(template(BASE)) == snapshot.use_extension(Rendered)


@pytest.mark.parametrize("values", OTHERS, ids=lambda file: file.stem.removesuffix("-values"))
def test_what_is_rendered_otherwise(values: Path, snapshot: SnapshotAssertion) -> None:
    found = difference(shortened(template(BASE)), shortened(template(values)))
    assert found == snapshot.use_extension(Difference)


def test_only_whole_files_are_left_out() -> None:
    script = WHOLE["chat.py"]
    indented = [f"    {line}" if line else line for line in script]
    assert shortened("\n".join(["a: |", *indented, "b: 1"])) == "a: |\n    (files/chat.py)\nb: 1\n"
    assert "(files" not in shortened("\n".join(["a: |", *indented[:-1], "b: 1"]))


def test_a_difference_names_the_object_that_it_is_in() -> None:
    one = "---\nkind: Service\nmetadata:\n  name: a\nspec:\n  b: 1\n  c: 2\n  d: 3\n  e: 4\n"
    other = one.replace("e: 4", "e: 5")
    assert difference(one, one) == ""
    assert difference(one, other) == "@@ Service a\n   b: 1\n   c: 2\n   d: 3\n-  e: 4\n+  e: 5\n"


def shortened(text: str) -> str:
    lines = text.splitlines()
    for name, file in WHOLE.items():
        bare = [line.strip() for line in lines]
        wanted = [line.strip() for line in file]
        start = 0
        while wanted[0] in bare[start:]:
            start = bare.index(wanted[0], start)
            if bare[start : start + len(wanted)] == wanted:
                indent = lines[start][: -len(bare[start])]
                lines[start : start + len(wanted)] = [f"{indent}(files/{name})"]
                bare[start : start + len(wanted)] = [f"(files/{name})"]
            start += 1
    return "\n".join(lines) + "\n"


def difference(one: str, other: str) -> str:
    """As `diff -u`, but for its line numbers, which change with all that is above: objects stand for them."""
    return "".join(f"{line}\n" for line in _difference(one.splitlines(), other.splitlines()))


def _difference(one: Sequence[str], other: Sequence[str]) -> Iterator[str]:
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    for hunk in matcher.get_grouped_opcodes(CONTEXT):
        yield f"@@ {_object(other, hunk[0][3])}"
        for tag, start, end, other_start, other_end in hunk:
            if tag == "equal":
                yield from (f" {line}" for line in one[start:end])
                continue
            yield from (f"-{line}" for line in one[start:end])
            yield from (f"+{line}" for line in other[other_start:other_end])


def _object(lines: Sequence[str], at: int) -> str:
    """The kind and the name of the object that line `at` is of."""
    start = max((number for number in range(at + 1) if lines[number] == "---"), default=0)
    end = next((number for number in range(at + 1, len(lines)) if lines[number] == "---"), len(lines))
    told = [
        line.split(":", 1)[1].strip(' "')
        for line in lines[start:end]
        if line.startswith(("kind:", "  name:"))
    ]
    return " ".join(told[:2])
