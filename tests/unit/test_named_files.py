"""The files that the documents for developers name are there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "app/api/README.md",
    "app/constrain/README.md",
    "app/runtime/README.md",
    "app/engine/vllm/README.md",
)
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.splitlines()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_that_a_document_names_are_there(document: str) -> None:
    named = set(re.findall(r"`([\w./-]+\.(?:py|lua|yaml|json|tpl))`", (ROOT / document).read_text("utf-8")))
    assert named
    ends = tuple("/" + path for path in TRACKED)
    assert [name for name in sorted(named) if not any(end.endswith("/" + name) for end in ends)] == []
