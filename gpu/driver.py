"""Runs steps one after another, each in a process with a deadline; what is found is on disk at once.

A step that hangs, crashes or fails costs one row. The file of results is written anew after each, and what
the steps and their servers wrote is in one file beside it, of a step that was ended in the middle as well.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psutil

State: TypeAlias = Literal["ok", "failed", "crashed", "too long", "skipped", "not run"]

TOTAL_S = 590.0
FIRST_S = 120.0
_SHOWN_CHARS = 4000
_KEPT_BYTES = 512 << 10
"""Of each log, from its end."""
_GONE_S = 10.0
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """`limit_s` includes the start of what it needs. Nothing else is tried unless it finds `essential`."""

    name: str
    limit_s: float
    proves: str
    essential: str = ""


@dataclass(slots=True)
class Row:
    """What came of a step. `found` is also what it found before it hung; `log` is what was last written."""

    step: str
    state: State
    seconds: float = 0.0
    found: dict[str, Any] = field(default_factory=dict[str, Any])
    reason: str = ""
    log: str = ""
    ended: str = ""


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

    `total_s` is the longest that all steps may take, and what is essential has to be found in `first_s`.
    `settle` is called between steps: what the one before held is to be free again; it says what is not.
    `kept` are rows of an earlier run, which stay in the file.
    """

    steps: Sequence[Step]
    command: Callable[[Step, Path], Sequence[str]]
    results: Path
    scratch: Path
    total_s: float = TOTAL_S
    first_s: float = FIRST_S
    told: Callable[[Row], None] = lambda _: None
    settle: Callable[[], str] = lambda: ""
    kept: Sequence[dict[str, Any]] = ()


def run(plan: Plan, about: dict[str, Any]) -> list[Row]:
    """All steps in order; `about` says on what."""
    began = time.monotonic()
    rows: list[Row] = []
    stopped = ""
    for step in plan.steps:
        unsettled = plan.settle() if rows and not stopped else ""
        left_s = plan.total_s - (time.monotonic() - began)
        if stopped or left_s <= 1:
            row = Row(step.name, "not run", reason=stopped or "no time is left")
        else:
            first_s = plan.first_s - (time.monotonic() - began)
            row = _one(plan, step, min(step.limit_s, left_s), first_s)
        row.reason = " ".join(filter(None, (row.reason, unsettled)))
        if step.essential and step.essential not in row.found and not stopped:
            stopped = f"{step.name}: {row.state}"
        rows.append(row)
        plan.told(row)
        _write(plan.results, about | {"steps": [*plan.kept, *(asdict(each) for each in rows)]})
    return rows


def _one(plan: Plan, step: Step, limit_s: float, first_s: float) -> Row:
    told, folder = plan.scratch / f"{step.name}.json", plan.scratch / step.name
    told.unlink(missing_ok=True)
    folder.mkdir()
    log = folder / "log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            plan.command(step, told),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(folder)},
        )
    try:
        status = _ended(process, step, told, limit_s, first_s)
    finally:
        _end(process)
    row = _row(step, _read(told), status)
    row.seconds = round(time.monotonic() - began, 2)
    row.ended = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    _keep_logs(plan, row, folder)
    shutil.rmtree(folder, ignore_errors=True)
    return row


def _ended(
    process: subprocess.Popen[bytes], step: Step, told: Path, limit_s: float, first_s: float
) -> int | None:
    """Its status; None if it has not ended by its limit, or not found what is essential before that."""
    began = time.monotonic()
    while (passed_s := time.monotonic() - began) < limit_s:
        if passed_s > first_s and step.essential and step.essential not in _read(told).get("found", {}):
            return None
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(_LOOK_S, limit_s - passed_s))
    return None


def _row(step: Step, told: dict[str, Any], status: int | None) -> Row:
    found = told.get("found", {})
    if "state" in told and status is not None:
        return Row(step.name, told["state"], found=found, reason=told["reason"])
    if status is None:
        return Row(step.name, "too long", found=found, reason="ended by its deadline")
    return Row(step.name, "crashed", found=found, reason=f"ended with status {status}")


def _keep_logs(plan: Plan, row: Row, folder: Path) -> None:
    """What the step wrote, and behind it what its servers did: each has a file of the name `log`."""
    logs = sorted(folder.rglob("log"), key=lambda each: (each.parent != folder, each.stat().st_mtime))
    texts = [each.read_bytes()[-_KEPT_BYTES:].decode(errors="replace") for each in logs]
    with plan.results.with_suffix(".log").open("a") as output:
        for each, text in zip(logs, texts, strict=True):
            output.write(f"\n===== {row.ended} {row.step} {each.relative_to(folder)}\n{text}")
    if row.state not in ("ok", "skipped"):
        row.log = "\n=====\n".join(text[-_SHOWN_CHARS:] for text in texts)


def _end(process: subprocess.Popen[bytes]) -> None:
    """It, all it started, and what these left behind: a server of one step may not disturb the next."""
    family: list[psutil.Process] = []
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    process.wait()
    family += [each for each in psutil.process_iter() if _group(each) == process.pid]
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    until_s = time.monotonic() + _GONE_S
    while any(map(_runs, family)) and time.monotonic() < until_s:
        time.sleep(0.05)  # they are not our children: there is nothing to wait on


def _group(process: psutil.Process) -> int:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return -1


def _runs(process: psutil.Process) -> bool:
    """Not so once it has ended, also where nobody has taken its status."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def _write(file: Path, content: Any) -> None:
    """In one go: a reader sees the file as it was or as it is."""
    scratch = file.with_suffix(".part")
    scratch.write_text(json.dumps(content, indent=1) + "\n")
    scratch.replace(file)
