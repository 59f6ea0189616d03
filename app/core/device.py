"""What holds engines: a GPU's memory, or the host's where models run on the CPU."""

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Device:
    """One device as its driver tells of it now; `total` and `free` are bytes that engines may have."""

    index: int
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Need:
    """What an engine takes on each of `count` devices: at `least` these bytes, and `most` if they are there.

    `only` are the devices that an operator has named for it; empty: any. Where it can be put to sleep, `host`
    bytes of the host's memory hold its weights then, and `asleep` bytes stay on each device; 0: it cannot.
    `in_processes`: it is the memory of processes, which the kernel tells of each; of a GPU a driver tells no
    more than how much is free.
    """

    least: int
    most: int
    count: int = 1
    only: tuple[int, ...] = ()
    host: int = 0
    asleep: int = 0
    in_processes: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an engine is, and the bytes that it has on each of the devices, of `total` on the smallest."""

    devices: tuple[int, ...]
    bytes_each: int
    total: int

    @property
    def share(self) -> float:
        """Its part of a device."""
        return self.bytes_each / self.total if self.total else 0.0


def gib(count: int) -> str:
    """Bytes as an error and a log line tell them."""
    return f"{count / GIB:.1f} GiB"
