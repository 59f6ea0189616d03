"""Programs that run beside a test: started with a log of their own, ended by their ids, last first."""

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

END_S = 20.0
"""How long a program may take to end before it is killed."""


class Processes:
    """What was started, in order."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a program whose output goes to the file NAME.log."""
        with (self._logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=os.environ | dict(environment or {}),
                start_new_session=True,
            )
        self._running.append((name, process))

    def check(self) -> None:
        """Fail where one of them has ended."""
        for name, process in self._running:
            if process.poll() is not None:
                tail = (self._logs / f"{name}.log").read_text(errors="replace")[-2000:]
                raise AssertionError(f"{name} ended with status {process.returncode}\n{tail}")

    def stop(self) -> None:
        for _, process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()
