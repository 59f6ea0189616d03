"""What a run must reach: `errors<=0.01, ttft.p95<=2000, chat:tpot.p99<=80, throughput>=100`.

Metrics: `ttft`, `tpot` and `total` in milliseconds and `speed` in output tokens a second, each of one answer
and hence with `.mean`, `.max` or a percentile such as `.p95`; and of the whole run `errors`, the share that
failed, `requests`, their number, and `throughput`, output tokens a second of all users together. `KIND:`
limits it to one kind of request, `API:` to those of one API.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loadtest.apis import APIS
from loadtest.apis.base import KINDS
from loadtest.samples import Run, Sample

_FORM = re.compile(r"(?:(\w+):)?(\w+)(?:\.(mean|max|p\d{1,2}(?:\.\d+)?))?\s*(<=|>=)\s*(\d+(?:\.\d+)?)")

Value = Callable[[Sample], float | None]
EACH: Mapping[str, Value] = {
    "ttft": lambda sample: _ms(sample.ttft_s),
    "tpot": lambda sample: _ms(sample.tpot_s),
    "total": lambda sample: None if sample.error else _ms(sample.total_s),
    "speed": lambda sample: sample.tokens_per_s,
}
"""What is known of one answer, None where the answer has none."""


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def values(samples: Sequence[Sample], metric: str) -> list[float]:
    """What those answers have of one of `EACH`, from low to high."""
    return sorted(value for sample in samples if (value := EACH[metric](sample)) is not None)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def statistic(ordered: Sequence[float], name: str) -> float | None:
    if not ordered:
        return None
    if name == "mean":
        return sum(ordered) / len(ordered)
    return ordered[-1] if name == "max" else quantile(ordered, float(name[1:]) / 100)


def throughput(run: Run) -> float:
    """Output tokens a second of all users together."""
    return sum(each.output_tokens for each in run.samples) / run.span_s if run.span_s else 0.0


@dataclass(frozen=True, slots=True)
class Threshold:
    """A limit; `text` is how it was written."""

    text: str
    part: str
    metric: str
    statistic: str
    at_most: bool
    limit: float

    def measured(self, run: Run) -> float | None:
        """None where there is nothing to measure, which is not good enough."""
        samples = [each for each in run.samples if self.part in ("", each.kind, each.api)]
        if self.metric == "requests":
            return float(len(samples))
        if not samples:
            return None
        if self.metric == "errors":
            return sum(bool(each.error) for each in samples) / len(samples)
        if self.metric == "throughput":
            return throughput(Run(samples=samples))
        return statistic(values(samples, self.metric), self.statistic)

    def holds(self, value: float | None) -> bool:
        if value is None:
            return False
        return value <= self.limit if self.at_most else value >= self.limit


def parse(text: str) -> Threshold:
    """`ValueError` for what is no threshold."""
    found = _FORM.fullmatch(text.strip())
    if not found:
        raise ValueError(
            f"a threshold is [KIND: or API:]METRIC[.STATISTIC]<=NUMBER or >=NUMBER, not {text.strip()!r}"
        )
    part, metric, name, sign, limit = found.groups("")
    if part and part not in (*KINDS, *APIS):
        raise ValueError(f"{text.strip()!r}: requests are {', '.join((*KINDS, *APIS))}")
    if metric not in EACH and metric not in ("errors", "requests", "throughput"):
        raise ValueError(f"{text.strip()!r}: there is no metric {metric!r}")
    if (metric in EACH) is not bool(name):
        need = "needs a statistic, as in ttft.p95" if metric in EACH else "has no statistics"
        raise ValueError(f"{text.strip()!r}: {metric} {need}")
    return Threshold(text.strip(), part, metric, name, sign == "<=", float(limit))


def parse_all(text: str) -> list[Threshold]:
    return [parse(part) for part in text.split(",") if part.strip()]


@dataclass(frozen=True, slots=True)
class Verdict:
    threshold: Threshold
    value: float | None

    @property
    def holds(self) -> bool:
        return self.threshold.holds(self.value)


def judge(run: Run, thresholds: Sequence[Threshold]) -> list[Verdict]:
    return [Verdict(each, each.measured(run)) for each in thresholds]


def table(verdicts: Sequence[Verdict]) -> str:
    """A line each, for a terminal."""
    rows = [("threshold", "measured", "")]
    rows += [
        (
            each.threshold.text,
            "nothing" if each.value is None else f"{each.value:.4g}",
            "ok" if each.holds else "MISSED",
        )
        for each in verdicts
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
