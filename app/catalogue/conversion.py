"""A conversion seen from the server: a process that is started with nothing of the server's, and watched.

The process is `dequantise.py`. It has so much memory and time as a file of its size can need, by the header
that was held against the file before.
"""

import math
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

import orjson

from app.catalogue.headers import GgufHeader
from app.core.confinement import environment_of
from app.core.errors import Draining, LoadFailed

Progress: TypeAlias = Callable[[str, float], None]
"""Hears the phase of the work and how much of it is done, from 0 to 1."""

PROGRAM = "app.catalogue.dequantise"
_MOST_THREADS = 8
_LOOK_S = 0.2
_MOST_LINE_BYTES = 64 << 10
_LAST_BYTES = 16 << 10
_MOST_REASON_CHARS = 300
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a conversion may take, by what is in the file."""

    memory_bytes: int
    """Of address space, over what the imported libraries have."""

    file_bytes: int
    time_s: float
    threads: int


def allowance(size_bytes: int, header: GgufHeader) -> Allowance:
    """For a file of `size_bytes`.

    It is mapped several times, and its elements are there as bfloat16 twice and, one tensor at a time, as
    float32 thrice. A busy core does a million elements a second.
    """
    counts = [math.prod(tensor.shape) for tensor in header.tensors]
    elements, largest = sum(counts), max(counts, default=0)
    return Allowance(
        memory_bytes=4 * _GIB + 6 * size_bytes + 6 * elements + 16 * largest,
        file_bytes=_GIB + 4 * elements,
        time_s=900 + 4 * elements / 1e6,
        threads=min(len(os.sched_getaffinity(0)), _MOST_THREADS),
    )


def run(
    gguf: Path, part: Path, progress: Progress, allowed: Allowance, stop: threading.Event | None = None
) -> None:
    """Convert `gguf` into the folder `part` in a process of its own, and pass on what that reports.

    Raises:
        LoadFailed: with the reason, where it ends without success, takes too long or too much.
        Draining: where `stop` was set.
    """
    command = [
        *(sys.executable, "-P", "-s", "-m", PROGRAM, str(gguf), str(part), str(os.getpid())),
        *(
            str(allowed.memory_bytes),
            str(allowed.file_bytes),
            str(int(allowed.time_s * allowed.threads) + 60),
        ),
    ]
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryDirectory() as home:
        # Not this process's environment, which holds secrets.
        environment = environment_of(os.environ, home, allowed.threads)  # noqa: TID251
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=home,
            env=environment,
        )
        try:
            reason = _follow(child, progress, time.monotonic() + allowed.time_s, stop or threading.Event())
        finally:
            child.kill()
            status = child.wait()
        if status or reason:
            told = _without_paths(reason or _last_words(status, errors), gguf.parent, part, Path(home))
            raise LoadFailed(f"cannot convert {gguf.name}: {told[:_MOST_REASON_CHARS]}")


def _follow(
    child: "subprocess.Popen[bytes]", progress: Progress, deadline: float, stop: threading.Event
) -> str:
    """Read reports until the child is done; the reason of a failure, if it gave one."""
    assert child.stdout is not None
    reason, held = "", b""
    with child.stdout as stream:
        poll = select.poll()
        poll.register(stream, select.POLLIN | select.POLLHUP)
        while True:
            if stop.is_set():
                raise Draining
            if time.monotonic() > deadline:
                return "it takes longer than a file of its size should"
            if not poll.poll(_LOOK_S * 1000):
                continue
            piece = os.read(stream.fileno(), _MOST_LINE_BYTES)
            if not piece:
                break
            *lines, held = (held + piece).split(b"\n")
            held = held[-_MOST_LINE_BYTES:]
            for line in lines:
                reason = _heard(line, progress) or reason
    _wait(child, deadline)
    return reason


def _wait(child: "subprocess.Popen[bytes]", deadline: float) -> None:
    """Until its end: it has closed its output, which it might do long before."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(max(deadline - time.monotonic(), 0))


def _heard(line: bytes, progress: Progress) -> str:
    """Pass a report on; the reason where it is one of a failure. What is no report says nothing."""
    if not line.startswith(b'{"'):
        return ""  # some library wrote past sys.stdout
    try:
        report = orjson.loads(line)
        if "error" in report:
            return str(report["error"])
        progress(str(report["phase"]), float(report["fraction"]))
    except (ValueError, TypeError, KeyError):
        pass
    return ""


def _without_paths(text: str, *folders: Path) -> str:
    """Without the folders of this server: clients read it."""
    for folder in sorted(folders, key=lambda each: -len(str(each))):
        text = text.replace(f"{folder}/", "").replace(str(folder), "the folder")
    return text


def _last_words(status: int, errors: IO[bytes]) -> str:
    if status < 0:
        return f"the conversion was killed by signal {-status}; is there enough memory?"
    errors.seek(0, os.SEEK_END)
    errors.seek(max(errors.tell() - _LAST_BYTES, 0))
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"the conversion ended with status {status}"
