"""A pytest plugin: which checklist points did the tests of this run prove?

`--points-report=FILE` writes it down as JSON: `{"exit_status": 0, "points": {"35": {"passed": true, "tests":
{"tests/unit/test_x.py::test_y": "passed"}}}}`. Numbers that the checklist does not have stop the run.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Literal, TypeAlias

import pytest

from scripts.checklist import POINTS

Outcome: TypeAlias = Literal["passed", "failed", "skipped"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--points-report", metavar="FILE", type=Path, help="write which points were proven")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(PointsPlugin(config.getoption("--points-report")), "caravan-points")


class PointsPlugin:
    """Gathers the outcome of every test that names points. `report` None only checks their numbers."""

    def __init__(self, report: Path | None) -> None:
        self._report = report
        self._numbers: dict[str, list[int]] = {}
        self._outcomes: dict[str, Outcome] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            numbers = [number for mark in item.iter_markers("point") for number in mark.args]
            for number in numbers:
                if number not in POINTS or POINTS[number].not_yet:
                    raise pytest.UsageError(f"{item.nodeid}: the checklist has no point {number!r} in scope")
            if numbers:
                self._numbers[item.nodeid] = numbers

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid not in self._numbers:
            return
        if report.failed:
            self._outcomes[report.nodeid] = "failed"
        elif report.skipped:
            self._outcomes[report.nodeid] = "skipped"
        elif report.when == "call":
            self._outcomes[report.nodeid] = "passed"

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if self._report is not None:
            document = {"exit_status": int(exitstatus), "points": self._points()}
            self._report.write_text(json.dumps(document, indent=1) + "\n")

    def _points(self) -> dict[str, object]:
        tests: defaultdict[int, dict[str, Outcome]] = defaultdict(dict)
        for nodeid, outcome in self._outcomes.items():
            for number in self._numbers[nodeid]:
                tests[number][nodeid] = outcome
        return {
            str(number): {"passed": proven(tests[number]), "tests": tests[number]} for number in sorted(tests)
        }


def proven(tests: dict[str, Outcome]) -> bool:
    """A skipped test proves nothing, and disproves nothing either."""
    return "passed" in tests.values() and "failed" not in tests.values()
