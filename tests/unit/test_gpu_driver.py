"""The driver of the GPU script, with steps that end as real ones can: well, by a fault, by a crash, never."""

import json
import sys
import time
from pathlib import Path

import psutil
import pytest

from gpu.check import STEPS, functions
from gpu.driver import FIRST_S, TOTAL_S, Plan, Row, Step, run

PROGRAM = """
import os, subprocess, sys, time
from pathlib import Path
from gpu.driver import Findings
name, file = sys.argv[1:]
found = Findings(Path(file))
found.tell(began=True)
if name == "hangs":
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    found.tell(child=child.pid)
    time.sleep(60)
if name == "leaves":
    child = subprocess.Popen(["sleep", "60"])
    found.tell(child=child.pid)
if name == "crashes":
    print("last words", flush=True)
    os._exit(9)
found.end("failed" if name == "fails" else "skipped" if name == "skips" else "ok", f"of {name}")
"""


def driven(folder: Path, *steps: Step, **plan: float) -> tuple[list[Row], list[int]]:
    """The rows, and how many of them were on disk after each step."""
    results = folder / "results.json"
    written: list[int] = []

    def told(_: Row) -> None:
        written.append(len(json.loads(results.read_text())["steps"]) if results.exists() else 0)

    made = Plan(
        steps,
        lambda step, file: [sys.executable, "-c", PROGRAM, step.name, str(file)],
        results,
        folder,
        told=told,
        **plan,
    )
    rows = run(made, {"machine": "m"})
    assert json.loads(results.read_text())["machine"] == "m"
    assert [each["state"] for each in json.loads(results.read_text())["steps"]] == [row.state for row in rows]
    return rows, written


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_each_end_of_a_step_is_one_row_and_the_next_one_runs(tmp_path: Path) -> None:
    names = ("hangs", "fails", "crashes", "skips", "leaves")
    began = time.monotonic()
    rows, written = driven(tmp_path, *(Step(name, 60 if name != "hangs" else 6, "") for name in names))
    assert [row.state for row in rows] == ["too long", "failed", "crashed", "skipped", "ok"]
    assert all(row.found["began"] for row in rows), "what was found before the end is kept"
    assert (rows[1].reason, rows[2].reason) == ("of fails", "ended with status 9")
    assert "last words" in rows[2].log
    assert written == [0, 1, 2, 3, 4], "written after each"
    assert time.monotonic() - began < 50
    assert not any(is_alive(rows[number].found["child"]) for number in (0, 4))


def test_without_a_first_token_nothing_else_is_tried(tmp_path: Path) -> None:
    steps = [Step("first", 30, ""), Step("hangs", 60, "", essential=True), Step("last", 5, "")]
    rows, _ = driven(tmp_path, *steps, first_s=7)
    assert [row.state for row in rows] == ["ok", "too long", "not run"]
    assert rows[2].reason == "hangs: too long"


def test_the_whole_is_bounded(tmp_path: Path) -> None:
    rows, _ = driven(tmp_path, Step("hangs", 60, ""), Step("last", 5, ""), total_s=2.5)
    assert [row.state for row in rows] == ["too long", "not run"]
    assert rows[0].seconds < 15


def test_the_first_token_comes_before_all_that_takes_long() -> None:
    [first] = [step for step in STEPS if step.essential]
    before = STEPS[: STEPS.index(first) + 1]
    assert sum(step.limit_s for step in before) <= FIRST_S
    assert TOTAL_S < 600


def test_each_step_has_what_it_does() -> None:
    assert functions().keys() == {step.name for step in STEPS}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_each_step_is_told_of(step: Step) -> None:
    page = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
    assert f"`{step.name}`" in page
    assert step.proves
