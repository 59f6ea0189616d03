"""What was measured of each answer, and the folder that keeps it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson


class Sample(NamedTuple):
    """One answer. Times are seconds since 1970 on the clock of the machine that asked; `first` is that of the
    first line with text, 0 where there is none, as in an embed. A failed one has an `error` and no counts.
    `api` is the one that was spoken, empty where that was not kept."""

    kind: str
    began: float
    first: float
    ended: float
    prompt_tokens: int
    output_tokens: int
    error: str
    api: str = ""

    @property
    def total_s(self) -> float:
        return self.ended - self.began

    @property
    def ttft_s(self) -> float | None:
        """Time to first token."""
        return self.first - self.began if self.first and not self.error else None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first."""
        if not self.first or self.error or self.output_tokens < 2:
            return None
        return (self.ended - self.first) / (self.output_tokens - 1)

    @property
    def tokens_per_s(self) -> float | None:
        """Output tokens a second, the wait for the first one included."""
        return self.output_tokens / self.total_s if self.output_tokens and not self.error else None


class Crowd(NamedTuple):
    """How many users there were from a time on, in seconds since 1970."""

    at: float
    users: int


@dataclass(slots=True)
class Run:
    """All samples of a run in the order in which they came, and what the run was of."""

    about: dict[str, Any] = field(default_factory=dict[str, Any])
    samples: list[Sample] = field(default_factory=list[Sample])
    crowds: list[Crowd] = field(default_factory=list[Crowd])

    @property
    def name(self) -> str:
        return str(self.about.get("name", "run"))

    @property
    def span_s(self) -> float:
        """From the first request to the end of the last answer."""
        if not self.samples:
            return 0.0
        return max(each.ended for each in self.samples) - min(each.began for each in self.samples)


def save(run: Run, folder: Path) -> None:
    """Write `run.json` and, a line each, `samples.jsonl` and `users.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_bytes(orjson.dumps(run.about, option=orjson.OPT_INDENT_2))
    _write(folder / "samples.jsonl", run.samples)
    _write(folder / "users.jsonl", run.crowds)


def load(folder: Path) -> Run:
    return Run(
        orjson.loads((folder / "run.json").read_bytes()),
        [Sample(*row) for row in _rows(folder / "samples.jsonl")],
        [Crowd(*row) for row in _rows(folder / "users.jsonl")],
    )


def _write(path: Path, rows: Iterable[tuple[Any, ...]]) -> None:
    with path.open("wb") as file:
        for row in rows:
            file.write(orjson.dumps(tuple(row)) + b"\n")


def _rows(path: Path) -> Sequence[list[Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]
