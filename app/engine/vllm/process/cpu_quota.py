"""How many cores an engine that runs on a CPU computes on, and whether they are its own.

Told by the environment, since it has to be known before vLLM and OpenMP are loaded.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_THREADS = "OMP_NUM_THREADS"
_BINDING = "VLLM_CPU_OMP_THREADS_BIND"


def environment(given: Mapping[str, str], cores: int, quota: float | None) -> dict[str, str]:
    """What to set besides what is `given`, for a process that may run on `cores` and has `quota` of them.

    One core is left to what does not compute. Where the process has its cores to itself, vLLM binds a worker
    to them, and chooses one logical core of each physical one. A share of the machine's time (a CPU limit of
    a container) comes with no cores of its own, and many containers would be bound to the same; and whoever
    has set the number of threads wants that number, which vLLM would replace.
    """
    usable = cores if quota is None else min(cores, max(1, int(quota)))
    own = quota in (None, cores) and _THREADS not in given
    chosen = {_THREADS: str(max(1, usable - 1))} | ({} if own else {_BINDING: "nobind"})
    return {name: value for name, value in chosen.items() if name not in given}


def quota(root: Path = CGROUPS) -> float | None:
    """The share of a container in the machine's time, in cores, by version 2 or 1 of control groups."""
    with suppress(OSError, ValueError):
        limit, _, period = (root / "cpu.max").read_text().partition(" ")
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError, ValueError):
        limit_us = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        return None if limit_us < 0 else limit_us / int((root / "cpu" / "cpu.cfs_period_us").read_text())
    return None
