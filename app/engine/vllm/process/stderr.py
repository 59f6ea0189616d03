"""What an engine's processes write: it goes on to this server's own standard error, and its end is kept.

What went wrong in a process of an engine is known to nobody else: vLLM tells its caller only that it failed.
"""

import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from app.core import progress
from app.engine.vllm.process.death_pipe import DeathPipe, end_with
from app.engine.vllm.process.offline import in_context

_KEPT_LINES = 400
_SHOWN_LINES = 12
_END_S = 2.0
_STDERR = 2

_DECORATION = re.compile(r"^(?:\([\w ]+ pid=\d+\)\s?)?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\]\s?)?")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Z]\w*(?:Error|Exception))(?:: (.+))?$")
_CHAINED = ("The above exception was the direct cause", "During handling of the above exception")
_SAYS_NOTHING = ("See stack trace for root cause", "See root cause above")

current: ContextVar["ChildOutput | None"] = ContextVar("current", default=None)
"""Where the engine that is being started in this context writes to."""


class ChildOutput:
    """One for each engine, from its start until its last process has ended. `processes` are its cores, as
    they are made, which start all others."""

    def __init__(self) -> None:
        self._reader, self.writer = Pipe(duplex=False)
        self.death_pipe = DeathPipe()
        self.processes: list[BaseProcess] = []
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._report = progress.listener()
        self._copying = Thread(target=self._copy, name="engine output", daemon=True)
        self._copying.start()

    @contextmanager
    def of_what_starts(self) -> Generator[None, None, None]:
        """Take what the processes started in this block write; it goes along into threads."""
        token = current.set(self)
        try:
            yield
        finally:
            current.reset(token)
            self.writer.close()
            self.death_pipe.reader.close()

    def wait_end(self) -> None:
        """Wait a moment for what processes that have ended wrote last."""
        self._copying.join(_END_S)

    def has_begun(self, count: int) -> bool:
        """Whether so many of the processes have been begun."""
        return sum(each.pid is not None for each in self.processes) >= count

    @property
    def lines(self) -> list[str]:
        return list(self._lines)

    @property
    def last(self) -> str:
        """The lines worth repeating in the log."""
        return "\n".join(self.lines[-_SHOWN_LINES:])

    def _copy(self) -> None:
        begun = b""
        with self._reader:
            while chunk := _read(self._reader):
                with suppress(OSError):
                    _write_all(_STDERR, chunk)
                *whole, begun = (begun + chunk).split(b"\n")
                self._lines += (line.decode(errors="replace").rstrip() for line in whole)
                self._report()
        if begun:
            self._lines.append(begun.decode(errors="replace"))


class CapturingContext:
    """A multiprocessing context whose processes write to `output` and end with this one.

    The rest is the context's own.
    """

    def __init__(self, context: Any, output: ChildOutput) -> None:
        self._context = context
        self._output = output

    def Process(self, *, target: Callable[..., None], name: str, kwargs: Any) -> BaseProcess:
        made = self._context.Process(
            target=write_to,
            name=name,
            args=(self._output.writer, self._output.death_pipe.reader, in_context(target)),
            kwargs=kwargs,
        )
        self._output.processes.append(made)
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def write_to(writer: Connection, server: Connection, target: Callable[..., None], **arguments: Any) -> None:
    """Run a process' work with all it writes going to `writer`, and for as long as `server` is open.

    This is the first that runs in a process of an engine, on every platform; its own children inherit both.
    """
    end_with(server)
    for standard in (1, _STDERR):
        os.dup2(writer.fileno(), standard)
    writer.close()
    target(**arguments)


def cause(lines: Iterable[str]) -> str:
    """What an engine failed of: the end of the first chain of exceptions in its output; empty without one."""
    plain = [_DECORATION.sub("", line) for line in lines]
    for at, line in enumerate(plain):
        found = _EXCEPTION.match(line)
        if found is None or any(text in line for text in _SAYS_NOTHING):
            continue
        if any(after.startswith(_CHAINED) for after in plain[at + 1 : at + 4]):
            continue
        name, text = found.groups()
        return text.strip() if text and name in {"ValueError", "RuntimeError", "Exception"} else line.strip()
    return ""


def _read(reader: Connection) -> bytes:
    try:
        return os.read(reader.fileno(), 65536)
    except OSError:
        return b""


def _write_all(target: int, chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(target, chunk) :]
