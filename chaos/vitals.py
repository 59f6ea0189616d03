"""What a server takes of its machine, by the role of each process, and how much more it takes later."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

from chaos.site import Site, name_of

_MIB = 1 << 20
_ROLES = {"VLLM::Engine": "engine cores", "VLLM::Worker": "engine workers"}


@dataclass(frozen=True, slots=True)
class Vitals:
    """Memory is the proportional set size: pages that processes share are counted once."""

    memory_mib: Mapping[str, float]
    descriptors: int
    threads: int
    processes: int
    tasks: int

    @property
    def total_mib(self) -> float:
        return sum(self.memory_mib.values())

    def rows(self) -> dict[str, float]:
        roles = {f"memory of the {role}, MiB": size for role, size in sorted(self.memory_mib.items())}
        return roles | {
            "memory of all, MiB": self.total_mib,
            "open descriptors of the server": self.descriptors,
            "threads of the server": self.threads,
            "processes": self.processes,
            "asyncio tasks of the server": self.tasks,
        }


async def look(site: Site) -> Vitals:
    """The vitals of a server that should be at rest."""
    memory: defaultdict[str, float] = defaultdict(float)
    for process in site.family():
        with suppress(psutil.NoSuchProcess):
            memory[_role(site, process)] += process.memory_full_info().pss / _MIB
    server = site.process
    return Vitals(
        dict(memory), server.num_fds(), server.num_threads(), len(site.family()), await site.tasks()
    )


def _role(site: Site, process: psutil.Process) -> str:
    if process == site.process:
        return "server"
    name = name_of(process)
    return next((role for start, role in _ROLES.items() if name.startswith(start)), "fork server")


def growth(before: Vitals, after: Vitals) -> dict[str, float]:
    """By how much each row has grown, as a share; what was nothing and is something has grown without end."""
    then, now = before.rows(), after.rows()
    return {
        name: (value / then[name] - 1 if then.get(name) else float("inf" if value else 0))
        for name, value in now.items()
    }
