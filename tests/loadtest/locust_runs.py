"""Locust as a process of its own, and what it left behind."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.samples import Run, load

END_S = 90


@dataclass(frozen=True, slots=True)
class Outcome:
    status: int
    output: str
    folder: Path

    @property
    def run(self) -> Run:
        return load(self.folder)

    def counts(self, method: str) -> dict[str, int]:
        """Requests by name that locust's own statistics have of a type."""
        return {row["name"]: row["num_requests"] for row in self._stats() if row["method"] == method}

    def failures(self) -> int:
        return sum(row["num_failures"] for row in self._stats())

    def _stats(self) -> list[dict[str, Any]]:
        return json.loads((self.folder / "locust.json").read_text())


def command(*arguments: str) -> list[str]:
    """As the image of the load tests runs it."""
    return [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", *arguments]


def launch(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Locust, not waited for; its results go to `folder`."""
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"LOADTEST_RESULTS": str(folder)},
    )


def start(folder: Path, *arguments: str, headless: bool = True) -> subprocess.Popen[str]:
    """Locust with its statistics as a file, not waited for."""
    shown = ["--only-summary", f"--json-file={folder / 'locust'}", *(["--headless"] if headless else [])]
    return launch(command(*shown, *arguments), folder)


def finish(process: subprocess.Popen[str], folder: Path) -> Outcome:
    try:
        output, _ = process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Outcome(process.returncode, output, folder)


def run(folder: Path, url: str, *arguments: str, users: int = 4, seconds: int = 3) -> Outcome:
    """A whole run; answers under way at its end are waited for."""
    given = (f"--host={url}", f"--users={users}", f"--run-time={seconds}", "--stop-timeout=20")
    return finish(start(folder, *given, f"--html={folder / 'locust.html'}", *arguments), folder)
