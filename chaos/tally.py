"""What came of all requests: counts by kind, every loss, and whether each failure has a cause."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from chaos.answers import Answer, Outcome, Verdict
from chaos.requests import Request

TOLD_S = 2.0
"""Whoever waits for an engine that is killed is told so within this time."""
_MOST_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Window:
    """The time in which requests may fail, from a harm to the end of its repair.

    `told_s` bounds how long requests that were under way at its begin may take to fail (None: not told).
    """

    harm: str
    began: float
    ended: float
    told_s: float | None = None

    def explains(self, answer: Answer) -> bool:
        return answer.ended >= self.began and answer.began <= self.ended


@dataclass(frozen=True, slots=True)
class Failed:
    request: Request
    answer: Answer
    reason: str


@dataclass(slots=True)
class Tally:
    counts: Counter[tuple[str, Outcome]] = field(default_factory=Counter[tuple[str, Outcome]])
    failed: list[Failed] = field(default_factory=list[Failed])
    lost: list[Failed] = field(default_factory=list[Failed])

    def add(self, request: Request, answer: Answer, verdict: Verdict) -> None:
        self.counts[request.kind, verdict.outcome] += 1
        if verdict.outcome is Outcome.FAILED:
            self.failed.append(Failed(request, answer, verdict.reason))
        elif verdict.outcome is Outcome.LOST:
            self.lost.append(Failed(request, answer, verdict.reason))

    def total(self, outcome: Outcome) -> int:
        return sum(count for (_, each), count in self.counts.items() if each is outcome)

    def unexplained(self, windows: Sequence[Window]) -> list[Failed]:
        """Failures while nothing was done to the server."""
        return [each for each in self.failed if not any(w.explains(each.answer) for w in windows)]

    def late(self, windows: Sequence[Window]) -> list[Failed]:
        """Failures of requests under way at a harm that were told of it too late."""
        return [
            each
            for window in windows
            if window.told_s is not None
            for each in self.failed
            if each.answer.began < window.began and each.answer.ended > window.began + window.told_s
        ]

    def table(self) -> str:
        lines = ["| request | sent | whole | clearly failed | left | lost |", "| --- |" + " ---: |" * 5]
        for kind in sorted({kind for kind, _ in self.counts}):
            lines.append(_row(kind, [self.counts[kind, outcome] for outcome in Outcome]))
        lines.append(_row("**all**", [self.total(outcome) for outcome in Outcome]))
        return "\n".join(lines)

    def problems(self, windows: Sequence[Window]) -> list[str]:
        found = {
            "lost": self.lost,
            "failed without a cause": self.unexplained(windows),
            "told too late": self.late(windows),
        }
        return [
            f"{what}: {each.request.kind}: {each.reason}, {each.answer.seconds:.1f} s after it was sent"
            for what, entries in found.items()
            for each in entries
        ]


def _row(name: str, counts: Sequence[int]) -> str:
    cells = " | ".join(f"{count:,}" for count in (sum(counts), *counts))
    return f"| {name} | {cells} |"


def shown(problems: Sequence[str]) -> str:
    """The first of many problems, and how many more there are."""
    lines = [f"- {each}" for each in problems[:_MOST_SHOWN]]
    if len(problems) > _MOST_SHOWN:
        lines.append(f"- and {len(problems) - _MOST_SHOWN} more")
    return "\n".join(lines)
