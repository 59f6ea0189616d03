"""What the chart renders for each way to use it, as reviewed: `make snapshots` writes it anew.

Files of the chart that are rendered word for word stand in it as their name alone.
"""

from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from tests.chart.helm import CHART, VALUES, template

pytestmark = pytest.mark.row("C2")

WHOLE = {file.name: file.read_text().splitlines() for file in sorted((CHART / "files").iterdir())}


class Rendered(SingleFileSnapshotExtension):
    _write_mode = WriteMode.TEXT
    file_extension = "yaml"


@pytest.mark.parametrize("values", VALUES, ids=lambda file: file.stem.removesuffix("-values"))
def test_what_is_rendered(values: Path, snapshot: SnapshotAssertion) -> None:
    assert shortened(template(values)) == snapshot.use_extension(Rendered)


def test_only_whole_files_are_left_out() -> None:
    script = WHOLE["chat.py"]
    indented = [f"    {line}" if line else line for line in script]
    assert shortened("\n".join(["a: |", *indented, "b: 1"])) == "a: |\n    (files/chat.py)\nb: 1\n"
    assert "(files" not in shortened("\n".join(["a: |", *indented[:-1], "b: 1"]))


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
