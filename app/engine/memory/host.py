"""The memory of this host, or of the container that the server runs in."""

from contextlib import suppress
from pathlib import Path

import psutil

from app.core.device import GIB, Device

CGROUPS = Path("/sys/fs/cgroup")
_RESERVE = GIB // 2
"""What is left to all that is no engine."""
_SERVER = GIB
"""What the server and the process that engines are forked from have once both have imported vLLM, which the
first engine is chosen before: until then it is free, and not to be had."""


def read_host(root: Path = CGROUPS) -> Device:
    """The host as a device. A container's limit counts where there is one; the page cache is free memory."""
    host = psutil.virtual_memory()
    total, free = host.total, host.available
    if (limit := _limit(root)) is not None and limit[0] < total:
        total, free = limit[0], min(free, limit[0] - limit[1])
    total = max(0, total - _RESERVE - _SERVER)
    return Device(0, total, min(total, max(0, free - _RESERVE)))


def _limit(root: Path) -> tuple[int, int] | None:
    """A container's limit in bytes and what it has of it, by version 2 or 1 of control groups."""
    for folder, most, used, cache in (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError, KeyError):
            limit = int((folder / most).read_text())  # "max" in version 2 where there is none
            lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            reclaimable = {name: int(count) for name, count in lines}[cache]
            return limit, max(0, int((folder / used).read_text()) - reclaimable)
    return None
