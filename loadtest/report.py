"""One report of one or several runs, side by side: `python -m loadtest.report FOLDER... --out
report.html`."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jinja2

from loadtest.apis.base import KINDS
from loadtest.plots import plots
from loadtest.samples import Run, load
from loadtest.thresholds import statistic, throughput, values

Table = list[list[str]]
COLUMNS = {
    "time to first token, ms": ("ttft", ("p50", "p95", "p99")),
    "time per output token, ms": ("tpot", ("p50", "p95", "p99")),
    "output tokens/s of one answer": ("speed", ("p50",)),
    "whole answer, ms": ("total", ("p50", "p95", "p99")),
}
"""Rows of the table by what is measured of each answer."""


def figures(runs: Sequence[Run]) -> Table:
    """A column for each run, a row for each figure: of all requests, then of each kind."""
    table: Table = [["", *(run.name for run in runs)]]
    table += [
        ["output tokens/s of all together", *(_number(throughput(run)) for run in runs)],
        ["requests/s", *(_number(len(run.samples) / run.span_s if run.span_s else None) for run in runs)],
        *_rows("all", runs),
    ]
    for kind in KINDS:
        parts = [Run(run.about, [each for each in run.samples if each.kind == kind]) for run in runs]
        if any(part.samples for part in parts):
            table += _rows(kind, parts)
    return table


def _rows(kind: str, runs: Sequence[Run]) -> Table:
    rows = [
        [f"{kind}: requests", *(f"{len(run.samples):,}" for run in runs)],
        [f"{kind}: failed", *(f"{sum(bool(each.error) for each in run.samples):,}" for run in runs)],
        [f"{kind}: output tokens", *(f"{sum(each.output_tokens for each in run.samples):,}" for run in runs)],
    ]
    for title, (metric, names) in COLUMNS.items():
        ordered = [values(run.samples, metric) for run in runs]
        if any(ordered):
            rows += [
                [f"{kind}: {title}, {name}", *(_number(statistic(each, name)) for each in ordered)]
                for name in names
            ]
    return rows


def verdicts(runs: Sequence[Run]) -> Table:
    found = [
        [run.name, each["threshold"], _number(each["measured"]), "ok" if each["holds"] else "missed"]
        for run in runs
        for each in run.about.get("verdicts", ())
    ]
    return [["run", "threshold", "measured", ""], *found]


def failures(runs: Sequence[Run]) -> Table:
    found = [
        [run.name, kind, error, str(count)]
        for run in runs
        for (kind, error), count in Counter(
            (each.kind, each.error) for each in run.samples if each.error
        ).most_common()
    ]
    return [["run", "request", "failure", "count"], *found]


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
        figures=figures(runs),
        verdicts=verdicts(runs),
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
