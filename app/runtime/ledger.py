"""The books of memory: what each engine was promised on which device, and what the next one would need."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from app.core.device import Device, Need, Placement
from app.core.model import Model
from app.runtime import policy
from app.runtime.residency import Decision, Place, Resident, decide

_LOOK_S = 0.1


class Memory(Protocol):
    """The devices, and what models need of them: the seam to drivers and to what was measured before."""

    def devices(self) -> Sequence[Device]:
        """What there is now. Takes no longer than a call of a driver."""
        ...

    def need(self, model: Model) -> Need:
        """What its engine took when it was loaded last, else what is predicted."""
        ...

    def measured(self, model: Model, bytes_each: int) -> None:
        """Keep what an engine took on each of its devices."""
        ...

    @property
    def settles_s(self) -> float:
        """How long the driver may take to give the memory of an ended process back; 0: none at all."""
        ...


class Unlimited:
    """Where no driver tells of memory: every engine fits."""

    settles_s = 0.0

    def devices(self) -> Sequence[Device]:
        return (Device(0, 1 << 62, 1 << 62),)

    def need(self, model: Model) -> Need:
        return Need(0, 0)

    def measured(self, model: Model, bytes_each: int) -> None: ...


@dataclass(slots=True)
class _Account:
    """One engine: its place, the free bytes of that before its load, and what it has taken."""

    placement: Placement
    before: int
    used: int = 0


class Ledger:
    """Accounts by engine key. `max_loaded` bounds the number of engines (0: nothing does), and
    `budget_bytes` what all of them have of each device (0: what is there)."""

    def __init__(self, memory: Memory, max_loaded: int = 0, budget_bytes: int = 0) -> None:
        self._memory = memory
        self._max_loaded = max_loaded
        self._budget = budget_bytes
        self._accounts: dict[str, _Account] = {}

    def decide(self, model: Model, loaded: Iterable[policy.Loaded]) -> Decision:
        """What is to be done for a load; where it is `Place`, the place is promised from then on."""
        devices = self._devices()
        residents = self._residents(loaded)
        decision = decide(self._memory.need(model), devices, residents, self._max_loaded)
        if isinstance(decision, Place):
            account = _Account(decision.placement, self._free(decision.placement))
            self._accounts[model.engine_key] = account
        return decision

    def placement(self, model: Model) -> Placement | None:
        """Where the model's engine is, or is about to be; None where nothing is known of memory.

        Its `total` is what the devices have, whatever the budget: engines take shares of that.
        """
        account = self._accounts.get(model.engine_key)
        if account is None or not account.placement.bytes_each:
            return None
        on = account.placement.devices
        total = min(each.total for each in self._memory.devices() if each.index in on)
        return replace(account.placement, total=total)

    def loaded(self, model: Model, most_bytes: int) -> None:
        """An engine is up: what it took is what is no longer free, but no more than `most_bytes`, which its
        processes have at most. Loads come one after another, so the difference is its own."""
        if account := self._accounts.get(model.engine_key):
            placement = account.placement
            taken = account.before - self._free(placement)
            account.used = max(0, min(taken, most_bytes // len(placement.devices)))
            self._memory.measured(model, account.used)

    def gone(self, model: Model) -> None:
        """An engine's memory is back, or it was never loaded."""
        self._accounts.pop(model.engine_key, None)

    def awaited(self, models: Iterable[Model]) -> dict[int, int]:
        """The free bytes by device that there should be once the engines of these have ended."""
        accounts = [each for model in models if (each := self._accounts.get(model.engine_key))]
        free = {device.index: device.free for device in self._memory.devices()}
        for account in accounts:
            for index in account.placement.devices:
                free[index] = free.get(index, 0) + account.used * 9 // 10
        return {index: free[index] for account in accounts for index in account.placement.devices}

    async def settle(self, awaited: Mapping[int, int]) -> None:
        """Return once the driver shows these free bytes, or has had the time that it may take."""
        for _ in range(int(self._memory.settles_s / _LOOK_S)):
            devices = self._memory.devices()
            if all(device.free >= awaited.get(device.index, 0) for device in devices):
                return
            await asyncio.sleep(_LOOK_S)

    def owed(self, model: Model) -> dict[int, int]:
        """The free bytes by device that there should be once a load that failed has given all back."""
        account = self._accounts.get(model.engine_key)
        return dict.fromkeys(account.placement.devices, account.before * 9 // 10) if account else {}

    def rows(self) -> list[tuple[Device, int]]:
        """Each device, and the bytes of it that engines have or were promised. From any thread."""
        if isinstance(self._memory, Unlimited):
            return []
        accounts = list(self._accounts.values())
        return [
            (
                device,
                sum(
                    max(each.placement.bytes_each, each.used)
                    for each in accounts
                    if device.index in each.placement.devices
                ),
            )
            for device in self._devices()
        ]

    def _devices(self) -> list[Device]:
        """The devices within the budget, of which engines have a part already."""
        if not self._budget:
            return list(self._memory.devices())
        return [
            replace(
                device,
                total=min(device.total, self._budget),
                free=min(device.free, self._budget - self._used_of(device)),
            )
            for device in self._memory.devices()
        ]

    def _used_of(self, device: Device) -> int:
        accounts = list(self._accounts.values())  # also read by the thread of metrics
        return sum(each.used for each in accounts if device.index in each.placement.devices)

    def _residents(self, loaded: Iterable[policy.Loaded]) -> list[Resident]:
        return [
            Resident(each, account.placement, account.used)
            for each in loaded
            if (account := self._accounts.get(each.key))
        ]

    def _free(self, placement: Placement) -> int:
        """Bytes free on the fullest of its devices, whatever the budget."""
        return min(each.free for each in self._memory.devices() if each.index in placement.devices)
