"""Servers as processes of their own, forked from one that has imported all that they need.

The module of a server calls `raise_them` as its program; `nursery` runs it and starts servers by it.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

STOP_S = 90.0

Serve = Callable[[str, int], None]
"""Serve under a name on a port until told to stop."""


class Nursery:
    """Starts servers and sees them end."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._handles: dict[str, int] = {}

    def start(self, name: str, port: int, log: Path) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(name, port, log, file=self._process.stdin, flush=True)
        self._handles[name] = os.pidfd_open(int(self._process.stdout.readline()))

    def end(self, name: str, how: signal.Signals) -> None:
        """Send the signal and wait until the server is gone."""
        handle = self._handles.pop(name)
        signal.pidfd_send_signal(handle, how)
        gone, _, _ = select.select([handle], [], [], STOP_S)
        os.close(handle)
        assert gone, f"{name} does not end"

    def close(self) -> None:
        for handle in self._handles.values():
            os.close(handle)


@contextmanager
def nursery(module: str, **environment: str) -> Generator[Nursery]:
    """Servers of `module`; those that are left at the end are killed."""
    with subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"CARAVAN_HOST": "0.0.0.0"} | environment,
    ) as process:
        made = Nursery(process)
        try:
            yield made
        finally:
            made.close()


def raise_them(serve: Serve) -> None:
    """Fork a server for each line `NAME PORT LOG` on standard input, and write its process id.

    When the lines end, those that are left are killed.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for their status
    started: list[int] = []
    for line in sys.stdin:
        name, port, log = line.split(maxsplit=2)
        started.append(_fork(serve, name, int(port), Path(log.strip())))
        print(started[-1], flush=True)
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _fork(serve: Serve, name: str, port: int, log: Path) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with log.open("ab") as output:
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        serve(name, port)
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)
