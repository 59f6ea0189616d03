"""The driver of the GPU script, with steps that end as real ones can: well, by a fault, by a crash, never."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpu.check import STEPS, functions
from gpu.driver import FIRST_S, TOTAL_S, Plan, Row, Step, run

PROGRAM = """
import os, subprocess, sys, tempfile, time
from pathlib import Path
from gpu.driver import Findings
name, file = sys.argv[1:]
found = Findings(Path(file))
found.tell(began=True)
if name == "hangs":
    server = Path(tempfile.mkdtemp()) / "log"
    server.write_text("what its server wrote")
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    found.tell(child=child.pid)
    time.sleep(60)
if name == "lasts":
    found.tell(token=1)
    time.sleep(4)
if name == "leaves":
    child = subprocess.Popen(["sleep", "60"])
    found.tell(child=child.pid)
if name == "crashes":
    print("last words", flush=True)
    os._exit(9)
found.end("failed" if name == "fails" else "skipped" if name == "skips" else "ok", f"of {name}")
"""


def driven(folder: Path, *steps: Step, **plan: Any) -> tuple[list[Row], list[int]]:
    """The rows, and how many of them were on disk after each step; `states` are those of kept rows."""
    before = plan.pop("states", [])
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
    states = [each["state"] for each in json.loads(results.read_text())["steps"]]
    assert states == before + [row.state for row in rows]
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


def test_the_logs_of_a_step_and_of_its_servers_are_kept(tmp_path: Path) -> None:
    """Of a step that is ended in the middle, nobody else prints them; and its temporary files go."""
    [hung, crashed], _ = driven(tmp_path, Step("hangs", 4, ""), Step("crashes", 30, ""))
    assert "what its server wrote" in hung.log
    kept = (tmp_path / "results.log").read_text()
    assert [word in kept for word in ("what its server wrote", "last words")] == [True, True]
    assert not (tmp_path / "hangs").exists()
    assert hung.ended < crashed.ended or hung.ended == crashed.ended
    assert hung.ended.endswith("UTC")


def test_without_a_first_token_nothing_else_is_tried(tmp_path: Path) -> None:
    steps = [Step("first", 30, ""), Step("hangs", 60, "", essential="token"), Step("last", 5, "")]
    rows, _ = driven(tmp_path, *steps, first_s=7)
    assert [row.state for row in rows] == ["ok", "too long", "not run"]
    assert rows[2].reason == "hangs: too long"
    assert rows[1].seconds < 20


def test_a_step_that_fails_or_goes_on_after_the_first_token_stops_nothing(tmp_path: Path) -> None:
    """A GPU whose arithmetic differs from the CPU's is to be measured all the same."""
    steps = [Step("fails", 30, "", essential="began"), Step("lasts", 60, "", essential="token")]
    rows, _ = driven(tmp_path, *steps, Step("last", 30, ""), first_s=2)
    assert [row.state for row in rows] == ["failed", "ok", "ok"]


def test_a_step_begins_when_what_the_one_before_held_is_free(tmp_path: Path) -> None:
    said = iter(["", "300 MiB were taken when it began"])
    steps = [Step(name, 30, "") for name in ("first", "second", "fails")]
    rows, _ = driven(tmp_path, *steps, settle=lambda: next(said))
    assert [row.reason for row in rows] == [
        "of first",
        "of second",
        "of fails 300 MiB were taken when it began",
    ]


def test_rows_of_an_earlier_run_stay_before_the_new_ones(tmp_path: Path) -> None:
    driven(
        tmp_path, Step("first", 30, ""), kept=[{"step": "earlier", "state": "skipped"}], states=["skipped"]
    )


def test_the_whole_is_bounded(tmp_path: Path) -> None:
    rows, _ = driven(tmp_path, Step("hangs", 60, ""), Step("last", 5, ""), total_s=2.5)
    assert [row.state for row in rows] == ["too long", "not run"]
    assert rows[0].seconds < 15


def test_the_first_token_comes_before_all_that_takes_long() -> None:
    """And of what remains, most is measured in the first call, the rest in two others at the most."""
    assert [step.name for step in STEPS if step.essential] == [STEPS[0].name] == ["first_token"]
    assert STEPS[0].limit_s <= FIRST_S
    assert TOTAL_S < 600
    limits = [step.limit_s for step in STEPS]
    assert [step.name for step in STEPS[:3]] == ["first_token", "versions", "throughput"]
    assert sum(limits) < 3 * TOTAL_S


def test_each_step_has_what_it_does() -> None:
    assert functions().keys() == {step.name for step in STEPS}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_each_step_is_told_of(step: Step) -> None:
    page = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
    assert f"`{step.name}`" in page
    assert step.proves
