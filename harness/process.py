"""A server as a process: started, waited for, and gone afterwards with all it started."""

import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

START_S = 300.0
STOP_S = 60.0
_LOOK_S = 0.1
_SHOWN_CHARS = 8000


class NotStarted(Exception):
    """A server that did not come up; what it wrote has been printed."""


def offline() -> dict[str, str]:
    """The environment of a server that downloads nothing, tells nobody and logs errors alone."""
    return {
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    } | dict(os.environ)


@contextmanager
def running(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Generator[psutil.Process]:
    """The command's process, which writes to `log`; its end is printed when the block fails."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    process = psutil.Process(started.pid)
    try:
        yield process
    except BaseException:
        print(f"{log} ends:\n{log.read_text(errors='replace')[-_SHOWN_CHARS:]}", file=sys.stderr)
        raise
    finally:
        _stop(started, process)


def wait_ready(url: str, process: psutil.Process) -> None:
    """Until `url` is answered with 200.

    Raises:
        NotStarted: when the process ends before that, or it takes too long.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.status() != psutil.STATUS_ZOMBIE:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(_LOOK_S)  # another process: there is nothing to wait on
    raise NotStarted(f"nothing answers {url}")


def _stop(started: subprocess.Popen[bytes], process: psutil.Process) -> None:
    family = process.children(recursive=True) if started.poll() is None else []
    started.terminate()
    try:
        started.wait(STOP_S)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    for child in alive:
        child.kill()
