"""What is shown of long work: bars on a terminal, plain lines elsewhere, or the server's own lines."""

import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import typer

from app.commands.failure import one_line
from app.commands.server import Event
from app.commands.sizes import size_text

Tell = Callable[[int], None]
"""Takes the bytes that are done so far."""


class Display(Protocol):
    """Shows work while it is done; entered before it and left when it has ended, however."""

    def __enter__(self) -> "Display": ...
    def __exit__(self, *_: object) -> None: ...

    def transfer(self, label: str, total: int) -> AbstractContextManager[Tell]:
        """Local work on `total` bytes."""
        ...

    def event(self, event: Event) -> None:
        """A line of the server."""
        ...

    def line(self, text: str) -> None:
        """What is to be said of the work."""
        ...


def open_display() -> Display:
    """The display that fits stderr: stdout is for what a command answers."""
    return Bars() if sys.stderr.isatty() else PlainLines()


class Quiet:
    """Nothing, or the server's lines on stdout as they are."""

    def __init__(self, *, shows_events: bool) -> None:
        self._shows_events = shows_events

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(self, *_: object) -> None: ...

    @contextmanager
    def transfer(self, label: str, total: int) -> Generator[Tell]:
        yield _ignored

    def event(self, event: Event) -> None:
        if self._shows_events:
            typer.echo(event.line)

    def line(self, text: str) -> None: ...


class PlainLines:
    """A line for each thing that is begun, on stderr."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __enter__(self) -> "PlainLines":
        return self

    def __exit__(self, *_: object) -> None: ...

    @contextmanager
    def transfer(self, label: str, total: int) -> Generator[Tell]:
        self.line(f"{label} ({size_text(total)})")
        yield _ignored

    def event(self, event: Event) -> None:
        status, total = one_line(event.text("status")), event.number("total")
        if status and status not in self._seen:
            self._seen.add(status)
            self.line(f"{status} ({size_text(total)})" if total else status)

    def line(self, text: str) -> None:
        typer.echo(text, err=True)


class Bars:
    """A bar for each layer and file, a line for each other status, in the order in which they begin."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            ProgressColumn,
            Task,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.table import Column

        class OfTransfers(ProgressColumn):
            """A column that is empty for a task without a total, which is a line of text."""

            def __init__(self, inner: ProgressColumn) -> None:
                self._inner = inner
                super().__init__()

            def render(self, task: Task) -> Any:
                return "" if task.total is None else self._inner.render(task)

        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            *(
                OfTransfers(column())
                for column in (
                    BarColumn,
                    TaskProgressColumn,
                    DownloadColumn,
                    TransferSpeedColumn,
                    TimeRemainingColumn,
                )
            ),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def transfer(self, label: str, total: int) -> Generator[Tell]:
        task = self._progress.add_task(one_line(label), total=total)
        yield lambda done: self._progress.update(task, completed=done)

    def event(self, event: Event) -> None:
        status, digest, total = one_line(event.text("status")), event.text("digest"), event.number("total")
        if not status:
            return
        key = f"{status} {digest}"
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(status, total=total or None)
        if total:
            self._progress.update(self._tasks[key], total=total, completed=event.number("completed"))

    def line(self, text: str) -> None:
        self._progress.add_task(text, total=None)


def _ignored(_done: int) -> None: ...
