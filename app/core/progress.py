"""How what takes long tells that it moves: whoever waits ends it when it has stood still for too long."""

from collections.abc import Callable
from contextvars import ContextVar


def _nobody() -> None: ...


_listener: ContextVar[Callable[[], None]] = ContextVar("progress", default=_nobody)


def listener() -> Callable[[], None]:
    """To be called whenever the work of this context has moved on; from any thread, and for ever."""
    return _listener.get()


def listen(moved: Callable[[], None]) -> None:
    """Have the work that begins in this context, and in copies of it, call `moved`."""
    _listener.set(moved)
