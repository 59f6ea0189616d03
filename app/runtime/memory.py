"""What the ledger asks of devices: their memory, and what models need of it."""

from collections.abc import Sequence
from typing import Protocol

from app.core.device import Device, Need
from app.core.model import Model


class Memory(Protocol):
    """The devices, and what models need of them: the seam to drivers and to what was measured before.

    `tells`: whether it knows of bytes at all. `settles_s` is how long the driver may take to give the memory
    of an ended process back; 0: none at all.
    """

    tells: bool
    settles_s: float

    def devices(self) -> Sequence[Device]:
        """What there was at the last reading; nothing where there was none. Waits for no driver."""
        ...

    async def fresh(self) -> bool:
        """Have the devices read anew; False where that takes too long or fails."""
        ...

    @property
    def is_current(self) -> bool:
        """Whether the last reading is of now, and can be measured from."""
        ...

    def need(self, model: Model) -> Need:
        """What its engine took when it was loaded last, else what is predicted."""
        ...

    def measured(self, model: Model, bytes_each: int, rank: int) -> None:
        """Keep what an engine for adapters up to `rank` took on each of its devices."""
        ...

    def spare_host_bytes(self) -> int:
        """The host's memory that is free now, for engines that are to sleep."""
        ...


class Unlimited:
    """Where no driver tells of memory: every engine fits."""

    tells = False
    settles_s = 0.0
    is_current = True

    def devices(self) -> Sequence[Device]:
        return (Device(0, 1 << 62, 1 << 62),)

    async def fresh(self) -> bool:
        return True

    def need(self, model: Model) -> Need:
        return Need(0, 0)

    def measured(self, model: Model, bytes_each: int, rank: int) -> None: ...

    def spare_host_bytes(self) -> int:
        return 0
