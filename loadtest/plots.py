"""Plots of one or several runs, as SVG."""

import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.samples import Run, Sample
from loadtest.thresholds import quantile, values

BINS = 60
LOADS = 12
"""Most points on an axis of time, and of users."""
PERCENTILES = {0.5: "-", 0.95: "--"}
"""With the line that each is drawn in."""
_SIZE_IN = (8.0, 3.2)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "loadtest",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Plot:
    name: str
    title: str
    svg: str


def plots(runs: Sequence[Run]) -> list[Plot]:
    """Each run in a colour of its own."""
    shown = [run for run in runs if run.samples]
    return [
        _plot("ttft-time", "Time to first token over time", shown, "ms", _over_time("ttft")),
        _plot("tpot-time", "Time per output token over time", shown, "ms", _over_time("tpot")),
        _plot("throughput-time", "Output tokens a second over time", shown, "tokens/s", _throughput),
        _plot("ttft-users", "Time to first token by load", shown, "ms", _by_users("ttft"), "users"),
        _plot("tpot-users", "Time per output token by load", shown, "ms", _by_users("tpot"), "users"),
        _plot(
            "throughput-users",
            "Output tokens a second by load",
            shown,
            "tokens/s",
            _throughput_by_users,
            "users",
        ),
    ]


Draw = Callable[[Axes, Run, str], None]
"""Draw a run in a colour."""


def _plot(name: str, title: str, runs: Sequence[Run], unit: str, draw: Draw, along: str = "seconds") -> Plot:
    with mpl.rc_context(STYLE):
        figure = Figure(_SIZE_IN, layout="constrained")
        axes = figure.add_subplot()
        for number, run in enumerate(runs):
            draw(axes, run, f"C{number}")
        axes.set(title=title, xlabel=along, ylabel=unit)
        axes.set_ylim(bottom=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left")  # the "best" place is searched for, for seconds on a busy machine
        if along == "seconds":
            _draw_crowd(axes, runs)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Plot(name, title, buffer.getvalue()[buffer.getvalue().index("<svg") :])


def _draw_crowd(axes: Axes, runs: Sequence[Run]) -> None:
    """The number of users, grey and with an axis of its own."""
    right = axes.twinx()
    right.grid(visible=False)
    for run in runs:
        start = _start(run)
        right.step(
            [each.at - start for each in run.crowds],
            [each.users for each in run.crowds],
            where="post",
            color="0.75",
        )
    right.set_ylim(bottom=0)
    right.set_ylabel("users", color="0.5")
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)


def _over_time(metric: str) -> Draw:
    def draw(axes: Axes, run: Run, color: str) -> None:
        groups: defaultdict[float, list[Sample]] = defaultdict(list)
        start, width = _start(run), _bin_s(run)
        for sample in run.samples:
            groups[((sample.first or sample.ended) - start) // width * width + width / 2].append(sample)
        _lines(axes, groups, metric, run.name, color)

    return draw


def _by_users(metric: str) -> Draw:
    def draw(axes: Axes, run: Run, color: str) -> None:
        groups: defaultdict[float, list[Sample]] = defaultdict(list)
        for sample, users in zip(run.samples, _users(run, [each.began for each in run.samples]), strict=True):
            groups[users].append(sample)
        _lines(axes, groups, metric, run.name, color, marker="o")

    return draw


def _lines(
    axes: Axes, groups: dict[float, list[Sample]], metric: str, name: str, color: str, marker: str = ""
) -> None:
    measured = {at: values(groups[at], metric) for at in sorted(groups)}
    for share, style in PERCENTILES.items():
        points = [(at, quantile(ordered, share)) for at, ordered in measured.items() if ordered]
        axes.plot(*zip(*points, strict=True) if points else ([], []), style, color=color, marker=marker, ms=3,
                  label=f"{name}, p{share * 100:g}")  # fmt: skip


def _throughput(axes: Axes, run: Run, color: str) -> None:
    edges, rates = _rates(run)
    axes.plot((edges[:-1] + edges[1:]) / 2 - _start(run), rates, color=color, label=run.name)


def _throughput_by_users(axes: Axes, run: Run, color: str) -> None:
    edges, rates = _rates(run)
    groups: defaultdict[float, list[float]] = defaultdict(list)
    middles = [float(each) for each in (edges[:-1] + edges[1:]) / 2]
    for users, rate in zip(_users(run, middles), rates, strict=True):
        groups[users].append(float(rate))
    found = [(users, float(np.median(groups[users]))) for users in sorted(groups) if users]
    axes.plot(*zip(*found, strict=True) if found else ([], []), color=color, marker="o", ms=3, label=run.name)


def _rates(run: Run) -> tuple["np.ndarray", "np.ndarray"]:
    """Edges of spans of time, and output tokens a second in each: an answer's are spread evenly over its
    stream."""
    start, width = _start(run), _bin_s(run)
    edges = start + width * np.arange(int(run.span_s / width) + 2)
    tokens = np.zeros(len(edges) - 1)
    for sample in run.samples:
        if sample.output_tokens:
            low, high = sample.first or sample.ended, sample.ended
            inside = np.clip(np.minimum(edges[1:], high + 1e-6) - np.maximum(edges[:-1], low), 0, None)
            tokens += sample.output_tokens * inside / max(inside.sum(), 1e-9)
    return edges, tokens / width


def _users(run: Run, times: Sequence[float]) -> list[float]:
    """The users at each time, rounded up where there were too many different numbers to show."""
    if not run.crowds:
        return [0.0] * len(times)
    at = np.array([each.at for each in run.crowds])
    users = np.array([each.users for each in run.crowds])
    found = users[np.clip(np.searchsorted(at, np.array(times), side="right") - 1, 0, len(at) - 1)]
    if len(set(found.tolist())) > LOADS:
        found = np.ceil(found / (width := -(-int(users.max()) // LOADS))) * width
    return [float(each) for each in found]


def _start(run: Run) -> float:
    return min(each.began for each in run.samples)


def _bin_s(run: Run) -> float:
    return max(1.0, run.span_s / BINS)
