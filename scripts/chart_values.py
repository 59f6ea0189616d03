"""The table of the chart's values, out of the comments in values.yaml that begin with `# --`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import yaml

VALUES = Path("deploy/helm/caravan/values.yaml")
MOST_SHOWN = 80
"""Characters of a default; a longer one is read in the file."""

Row: TypeAlias = tuple[str, str, str]
"""Key, default and meaning."""


def rows(text: str) -> list[Row]:
    """A row for each value that is explained; a `ValueError` for one that is not."""
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{VALUES} is no mapping")
    return list(_rows(root, "", text.splitlines()))


def _rows(node: yaml.MappingNode, prefix: str, lines: Sequence[str]) -> Iterator[Row]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        meaning = _meaning(lines, key.start_mark.line)
        if meaning:
            yield f"`{name}`", _default(value), meaning
        elif isinstance(value, yaml.MappingNode):
            yield from _rows(value, f"{name}.", lines)
        else:
            raise ValueError(f"{VALUES} does not explain {name}")


def _meaning(lines: Sequence[str], line: int) -> str:
    """What the comment right above a line says, from `# --` on; empty if there is none."""
    first = line
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    words = [each.strip().removeprefix("#").strip() for each in lines[first:line]]
    starts = [at for at, each in enumerate(words) if each.startswith("--")]
    return " ".join(words[starts[-1] :]).removeprefix("--").strip() if starts else ""


def _default(node: yaml.Node) -> str:
    value = yaml.safe_load(yaml.serialize(node))
    shown = json.dumps(value)
    return f"`{shown}`" if len(shown) <= MOST_SHOWN else "see `values.yaml`"
