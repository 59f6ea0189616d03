"""Runs steps one after another, each in a process with a deadline; what is found is on disk at once.

A step that hangs, crashes or fails costs one row. The file of results is written anew after each.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psutil

State: TypeAlias = Literal["ok", "failed", "crashed", "too long", "skipped", "not run"]

TOTAL_S = 590.0
FIRST_S = 120.0
_SHOWN_CHARS = 4000
_GONE_S = 10.0


@dataclass(frozen=True, slots=True)
class Step:
    """`limit_s` includes the start of what it needs. Without what is `essential` nothing else is tried."""

    name: str
    limit_s: float
    proves: str
    essential: bool = False


@dataclass(slots=True)
class Row:
    """What came of a step. `found` is also what it found before it hung; `log` is what it last wrote."""

    step: str
    state: State
    seconds: float = 0.0
    found: dict[str, Any] = field(default_factory=dict[str, Any])
    reason: str = ""
    log: str = ""


class Findings:
    """What a step finds: each is on disk at once, so that a hang keeps it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[str, Any] = {}

    def tell(self, **found: Any) -> None:
        self._found |= found
        _write(self._file, {"found": self._found})

    def end(self, state: State, reason: str = "") -> None:
        _write(self._file, {"found": self._found, "state": state, "reason": reason})


@dataclass(frozen=True, slots=True)
class Plan:
    """`command` gives the words that run a step, which writes its `Findings` to the file that it is given.

    `total_s` is the longest that all steps may take, and an `essential` one has to be done in `first_s`.
    """

    steps: Sequence[Step]
    command: Callable[[Step, Path], Sequence[str]]
    results: Path
    scratch: Path
    total_s: float = TOTAL_S
    first_s: float = FIRST_S
    told: Callable[[Row], None] = lambda _: None


def run(plan: Plan, about: dict[str, Any]) -> list[Row]:
    """All steps in order; `about` says on what."""
    began = time.monotonic()
    rows: list[Row] = []
    stopped = ""
    for step in plan.steps:
        left_s = plan.total_s - (time.monotonic() - began)
        if step.essential:
            left_s = min(left_s, plan.first_s - (time.monotonic() - began))
        if stopped or left_s <= 1:
            row = Row(step.name, "not run", reason=stopped or "no time is left")
        else:
            row = _one(plan, step, min(step.limit_s, left_s))
        if step.essential and row.state != "ok" and not stopped:
            stopped = f"{step.name}: {row.state}"
        rows.append(row)
        plan.told(row)
        _write(plan.results, about | {"steps": [asdict(each) for each in rows]})
    return rows


def _one(plan: Plan, step: Step, limit_s: float) -> Row:
    told, log = plan.scratch / f"{step.name}.json", plan.scratch / f"{step.name}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            plan.command(step, told),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    status: int | None = None
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _end(process)
    row = _row(step, _read(told), status)
    row.seconds = round(time.monotonic() - began, 2)
    if row.state not in ("ok", "skipped"):
        row.log = log.read_text(errors="replace")[-_SHOWN_CHARS:]
    return row


def _row(step: Step, told: dict[str, Any], status: int | None) -> Row:
    found = told.get("found", {})
    if status is None:
        return Row(step.name, "too long", found=found, reason="ended by its deadline")
    if "state" in told:
        return Row(step.name, told["state"], found=found, reason=told["reason"])
    return Row(step.name, "crashed", found=found, reason=f"ended with status {status}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """It, all it started, and what these left behind: a server of one step may not disturb the next."""
    family: list[psutil.Process] = []
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for each in family:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, _GONE_S)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def _write(file: Path, content: Any) -> None:
    """In one go: a reader sees the file as it was or as it is."""
    scratch = file.with_suffix(".part")
    scratch.write_text(json.dumps(content, indent=1) + "\n")
    scratch.replace(file)
