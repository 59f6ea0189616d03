"""What Ollama's common names stand for at the hub: `library.yaml`, and what is read of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, cast

import yaml

from app.core.model import ModelName

FILE = "library.yaml"
_FIELDS = frozenset({"names", "repo", "revision", "engine", "tool_parser", "reasoning_parser", "source"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the library: weights of `repo` at the hub, at `revision` where a source shows the commit.

    `engine` are recommended engine arguments of vLLM; the parsers are vLLM's, "" leaves the choice to the
    model's own files. `source` is the page that the entry was taken from.
    """

    repo: str
    source: str
    revision: str = ""
    engine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tool_parser: str = ""
    reasoning_parser: str = ""


def find(name: ModelName) -> Entry | None:
    """The entry of a plain name; None for a name with a host or namespace of its own, or an unknown one."""
    plain = ModelName(name.model.lower(), name.tag.lower())
    if name.canonical.lower() != plain.canonical:
        return None
    return load().get(f"{plain.model}:{plain.tag}")


@cache
def load() -> Mapping[str, Entry]:
    """All entries, by `model:tag` in lower case.

    Raises:
        ValueError: for a file that is not as it should be; a test looks.
    """
    text = (files("app.registry") / FILE).read_text(encoding="utf-8")
    return read(text)


def read(text: str) -> Mapping[str, Entry]:
    """As `load`, of the text of a file."""
    found: dict[str, Entry] = {}
    for row in cast(list[dict[str, Any]], yaml.safe_load(text)["models"]):
        if unknown := row.keys() - _FIELDS:
            raise ValueError(f"{row.get('repo')}: unknown {', '.join(sorted(unknown))}")
        entry = Entry(**{key: value for key, value in row.items() if key != "names"})
        for name in row["names"]:
            if name in found:
                raise ValueError(f"{name} is there twice")
            found[name] = entry
    return found
