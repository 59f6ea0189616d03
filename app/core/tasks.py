"""The owner of the tasks that run in the background: none of them dies in silence.

What such a task raises is logged and counted; then it is begun again, or whoever depends on it is told.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeAlias, get_args

_RESTART_S = 1.0
_log = logging.getLogger("caravan")

Name: TypeAlias = Literal[
    "key files",
    "model store",
    "engine moves",
    "engine load",
    "engine end",
    "engine hang",
    "engine aborts",
    "front ends",
]
Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

NAMES: tuple[Name, ...] = get_args(Name)

deaths: Counter[Name] = Counter()
"""How often a task of each name has raised, in this process, since it began."""


def supervise(
    name: Name,
    work: Work,
    *,
    restart_s: float | None = _RESTART_S,
    on_death: Callable[[str], None] | None = None,
) -> asyncio.Task[None]:
    """Run `work` until it returns or is cancelled.

    After an exception `on_death` is told the reason, and `restart_s` later it is begun again (None: never).
    """
    return asyncio.create_task(_run(name, work, restart_s, on_death), name=name)


async def _run(
    name: Name, work: Work, restart_s: float | None, on_death: Callable[[str], None] | None
) -> None:
    while True:
        try:
            return await work()
        except Exception as error:
            deaths[name] += 1
            _log.exception("background task %r failed", name)
            if on_death is not None:
                on_death(f"background task {name!r} failed: {error or type(error).__name__}")
        if restart_s is None:
            return
        await asyncio.sleep(restart_s)
