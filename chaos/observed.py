"""The real `caravan` command, which also counts its asyncio tasks into a file when it gets SIGUSR1.

Nothing outside a process can see its tasks, and the product has no need to show them.
"""

import asyncio
import os
import signal
from pathlib import Path
from types import FrameType

from app.cli import main

TASKS_FILE = "CARAVAN_CHAOS_TASKS"


def _count_tasks(*_: int | FrameType | None) -> None:
    path = Path(os.environ[TASKS_FILE])
    scratch = path.with_suffix(".new")
    try:
        count = len(asyncio.all_tasks())
    except RuntimeError:  # between two turns of the loop
        return
    scratch.write_text(str(count))
    scratch.rename(path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _count_tasks)
    main()
