"""Runs the conformance tests and prints the checklist: what passed, what departs and why, what is not yet.

`python -m scripts.compat [pytest arguments]`, or `--report FILE` for the table of an earlier run. The exit
code is 1 when a test failed or a point in scope is not proven.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rich.console import Console
from rich.table import Table

from scripts.checklist import DEPARTURES, POINTS, Point, ranges

REPORT = Path("compat.json")
Status: TypeAlias = Literal["passed", "departed", "failed", "unproven", "not yet"]
GOOD: tuple[Status, ...] = ("passed", "departed", "not yet")
COLOURS: dict[Status, str] = {
    "passed": "green",
    "departed": "yellow",
    "failed": "red",
    "unproven": "red",
    "not yet": "dim",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A point, what the run says of it and the tests that spoke, without their parameters."""

    point: Point
    status: Status
    tests: tuple[str, ...]

    @property
    def remark(self) -> str:
        """Why the status is not simply passed, then the tests."""
        reason = {"departed": DEPARTURES.get(self.point.number, ""), "unproven": "no test that ran proves it"}
        return "\n".join(filter(None, (reason.get(self.status, ""), *self.tests)))


def rows(report: Mapping[str, Any]) -> list[Row]:
    return [_row(point, report["points"].get(str(point.number), {})) for point in POINTS.values()]


def _row(point: Point, found: Mapping[str, Any]) -> Row:
    outcomes: Mapping[str, str] = found.get("tests", {})
    names = tuple(sorted({nodeid.partition("::")[2].partition("[")[0] for nodeid in outcomes}))
    if point.not_yet:
        return Row(point, "not yet", names)
    if not found.get("passed"):
        return Row(point, "failed" if "failed" in outcomes.values() else "unproven", names)
    return Row(point, "departed" if point.number in DEPARTURES else "passed", names)


def succeeded(report: Mapping[str, Any], found: Iterable[Row]) -> bool:
    return report["exit_status"] == 0 and all(row.status in GOOD for row in found)


def show(found: Sequence[Row], console: Console) -> None:
    sections = [(name, list(each)) for name, each in groupby(found, key=lambda row: row.point.section)]
    for section, within in sections:
        if within[0].status == "not yet":
            continue
        table = Table(title=section, title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("point", justify="right")
        table.add_column("what", max_width=44)
        table.add_column("status")
        table.add_column("why, and the tests", overflow="fold")
        for row in within:
            status = f"[{COLOURS[row.status]}]{row.status}[/]"
            table.add_row(str(row.point.number), row.point.title, status, row.remark)
        console.print(table)
        console.print()
    for section, within in sections:
        console.print(f"{section}: {_summary(within)}", highlight=False)
    console.print(f"[bold]All: {_summary(found)}[/]", highlight=False)


def _summary(found: Iterable[Row]) -> str:
    by_status: dict[str, list[int]] = {}
    for row in found:
        by_status.setdefault(row.status, []).append(row.point.number)
    return ", ".join(
        f"{len(by_status[status])} {status}"
        + (f" ({ranges(by_status[status])})" if status not in ("passed", "not yet") else "")
        for status in COLOURS
        if status in by_status
    )


def _run(arguments: Sequence[str]) -> Path:
    REPORT.unlink(missing_ok=True)
    # In one word: pytest learns of the option late, and would take a word of its own for a path to test.
    command = [sys.executable, "-m", "pytest", "-m", "point", f"--points-report={REPORT}", *arguments]
    subprocess.run(command, check=False)
    return REPORT


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts.compat", description=__doc__, allow_abbrev=False)
    parser.add_argument("--report", type=Path, metavar="FILE", help="print this report of an earlier run")
    asked, passed_on = parser.parse_known_args(arguments)
    path: Path = asked.report or _run(passed_on)
    if not path.is_file():
        print(f"there is no report {path}: the tests did not run", file=sys.stderr)
        return 1
    report = json.loads(path.read_text())
    found = rows(report)
    show(found, Console(width=None if sys.stdout.isatty() else 160))
    return 0 if succeeded(report, found) else 1


if __name__ == "__main__":
    sys.exit(main())
