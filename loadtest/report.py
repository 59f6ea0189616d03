"""One report of one or several runs, side by side: `python -m loadtest.report FOLDER... --out
report.html`."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jinja2

from loadtest.apis.base import KINDS
from loadtest.plots import plots
from loadtest.samples import Run, Sample, load
from loadtest.thresholds import statistic, values

Table = list[list[str]]
ALL = "all"
COLUMNS = {
    "first token, ms": ("ttft", ("p50", "p95", "p99")),
    "per output token, ms": ("tpot", ("p50", "p95", "p99")),
    "tokens/s of one answer": ("speed", ("p50",)),
    "whole answer, ms": ("total", ("p50", "p95", "p99")),
}
"""Columns of the table by what is measured of each answer."""


def figures(runs: Sequence[Run]) -> Table:
    """A row for all requests and one for each kind, of each run and API where there are several; a column for
    each figure."""
    apis = list(dict.fromkeys(sample.api for run in runs for sample in run.samples))
    of_run, of_api = len(runs) > 1, any(len({each.api for each in run.samples}) > 1 for run in runs)
    several = ["", *apis] if of_api else [""]
    rows = [
        [kind, *[run.name] * of_run, *[api or ALL] * of_api, *_row(run, part)]
        for kind in (ALL, *KINDS)
        for api in several
        for run in runs
        if (part := _part(run, kind, api)) or (kind, api) == (ALL, "")
    ]
    head = ["requests", *["run"] * of_run, *["API"] * of_api]
    head += ["count", "failed", "per second", "output tokens", "tokens/s of all together"]
    return [[*head, *(f"{title}, {name}" for title, (_, names) in COLUMNS.items() for name in names)], *rows]


def _part(run: Run, kind: str, api: str) -> list[Sample]:
    return [each for each in run.samples if kind in (ALL, each.kind) and api in ("", each.api)]


def _row(run: Run, samples: Sequence[Sample]) -> list[str]:
    """Figures of a part of a run; what is a second is over the whole of it, so that parts add up."""
    tokens = sum(each.output_tokens for each in samples)
    row = [
        f"{len(samples):,}",
        f"{sum(bool(each.error) for each in samples):,}",
        _number(len(samples) / run.span_s if run.span_s else None),
        f"{tokens:,}",
        _number(tokens / run.span_s if run.span_s else None),
    ]
    for metric, names in COLUMNS.values():
        ordered = values(samples, metric)
        row += [_number(statistic(ordered, name)) for name in names]
    return row


def outcome(runs: Sequence[Run]) -> str:
    """Whether all thresholds of all runs hold; empty where there are none."""
    holds = [each["holds"] for run in runs for each in run.about.get("verdicts", ())]
    return ("passed" if all(holds) else "missed") if holds else ""


def verdicts(runs: Sequence[Run]) -> Table:
    found = [
        [run.name, each["threshold"], _number(each["measured"]), "ok" if each["holds"] else "missed"]
        for run in runs
        for each in run.about.get("verdicts", ())
    ]
    return [["run", "threshold", "measured", ""], *found]


def failures(runs: Sequence[Run]) -> Table:
    found = [
        [run.name, api, kind, error, str(count)]
        for run in runs
        for (api, kind, error), count in Counter(
            (each.api, each.kind, each.error) for each in run.samples if each.error
        ).most_common()
    ]
    return [["run", "API", "request", "failure", "count"], *found]


def abouts(runs: Sequence[Run]) -> Table:
    names = [name for name in runs[0].about if name not in ("verdicts", "name")]
    return [
        ["option", *(run.name for run in runs)],
        *([name, *(str(run.about.get(name, "")) for run in runs)] for name in names),
    ]


def html(runs: Sequence[Run]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html.j2").render(
        outcome=outcome(runs),
        verdicts=verdicts(runs),
        figures=figures(runs),
        failures=failures(runs),
        abouts=abouts(runs),
        plots=plots(runs),
    )


def markdown(table: Table) -> str:
    head, *rows = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([head, "| --- |" + " ---: |" * (len(table[0]) - 1), *rows])


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.report", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="what runs left with --results")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the report: %(default)s")
    parser.add_argument("--svg", type=Path, help="folder for the plots as files of their own")
    asked = parser.parse_args(arguments)
    runs = [load(folder) for folder in asked.folders]
    asked.out.write_text(html(runs), "utf-8")
    if asked.svg:
        asked.svg.mkdir(parents=True, exist_ok=True)
        for plot in plots(runs):
            (asked.svg / f"{plot.name}.svg").write_text(plot.svg, "utf-8")
    print(asked.out)


if __name__ == "__main__":
    main()
