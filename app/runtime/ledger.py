"""The books of memory: what each engine was promised on which device, and what the next one would need.

What is about to happen to an engine (its load, its end, its sleep) is a move. A move has its devices to
itself, since it is measured by what it changes there; moves on others go on beside it. Decisions are made on
what the devices will have once the moves under way have ended.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TypeAlias

from app.core.device import Device, Need, Placement
from app.core.model import Model
from app.runtime import policy
from app.runtime.account import Account, Phase
from app.runtime.memory import Memory
from app.runtime.residency import Decision, Impossible, MakeRoom, Place, Resident, Wait, decide

_LOOK_S = 0.1
_UNKNOWN = "the memory of the devices is not known, since their driver does not answer"


@dataclass(frozen=True, slots=True)
class Awaken:
    """Wake it where it sleeps, now."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class Later:
    """Decide again when a move has ended; until then nothing that came later is to have these devices."""

    devices: frozenset[int]


LedgerDecision: TypeAlias = Decision | Awaken | Later


class Ledger:
    """Accounts by engine key. `max_loaded` bounds the number of engines (0: nothing does), `budget_bytes`
    what all of them have of each device (0: what is there), and `sleep_bytes` what those that sleep or have
    slept have of the host's memory (0: none sleeps)."""

    def __init__(
        self, memory: Memory, max_loaded: int = 0, budget_bytes: int = 0, sleep_bytes: int = 0
    ) -> None:
        self._memory = memory
        self._max_loaded = max_loaded
        self._budget = budget_bytes
        self.sleep_bytes = sleep_bytes
        self._accounts: dict[str, Account] = {}
        self._then: dict[int, int] = {}  # free bytes of devices when the move began that they have now

    # What is to be done next.

    def decide(
        self, model: Model, loaded: Iterable[policy.Loaded], reserved: Set[int] = frozenset()
    ) -> LedgerDecision:
        """What is to be done for a load, on other devices than those `reserved` for loads before it. Where it
        is `Place` or `Awaken`, the place is promised and the move begins."""
        if not self._memory.devices():
            return Impossible(_UNKNOWN, is_too_large=False)
        need = self._memory.need(model)
        account = self._accounts.get(model.engine_key)
        moves = [each for each in self._accounts.values() if each.in_move]
        taken = {index for each in moves for index in each.placement.devices} | reserved
        decision = self._best(model, need, account, self._residents(loaded), taken)
        decision = self._unless_taken(decision, need, taken)
        if isinstance(decision, Place):
            account = Account(decision.placement, self._free(decision.placement), need)
            self._accounts[model.engine_key] = account
            self._begin(account)
        elif isinstance(decision, Awaken) and account is not None:
            account.phase = Phase.WAKING
            self._begin(account)
        return decision

    def _best(
        self,
        model: Model,
        need: Need,
        account: Account | None,
        residents: Sequence[Resident],
        taken: Set[int],
    ) -> Decision | Awaken:
        """What is best once the moves under way have ended; but what need not wait for these does not."""
        devices = self._devices()
        if account is None or account.phase is not Phase.ASLEEP:
            others = [device for device in devices if device.index not in taken] if taken else []
            now = decide(need, others, residents, self._max_loaded)
            return now if isinstance(now, Place) else decide(need, devices, residents, self._max_loaded)
        place = account.placement
        others = [each for each in residents if each.loaded.key != model.engine_key]
        more = max(0, place.bytes_each - account.used)
        here = decide(Need(more, more, len(place.devices), place.devices), devices, others, self._max_loaded)
        if isinstance(here, Place):
            return Awaken(place)
        if isinstance(here, MakeRoom):
            return here
        anew = decide(need, devices, others, self._max_loaded)
        if isinstance(anew, Place | MakeRoom):  # there is room elsewhere: better a load than no answer
            return MakeRoom((model.engine_key,), on=place.devices)
        return here if isinstance(here, Wait) else anew

    def _unless_taken(self, decision: Decision | Awaken, need: Need, taken: Set[int]) -> LedgerDecision:
        """The decision, where it touches nothing that a move has now or an earlier load is to have."""
        if not taken or isinstance(decision, Wait):
            return decision
        if isinstance(decision, Impossible):  # What is being loaded cannot go now, and may then.
            every = {device.index for device in self._memory.devices()}
            return Later(frozenset(need.only or every))
        touched = set[int]()
        if isinstance(decision, MakeRoom):
            touched |= set(decision.on)
            for key in decision.keys:
                touched |= set(self._accounts[key].placement.devices)
        else:
            touched |= set(decision.placement.devices)
        return Later(frozenset(touched)) if touched & taken else decision

    def is_moving(self, key: str) -> bool:
        """Whether a move of this engine is under way or to come, so that no other takes its place yet."""
        account = self._accounts.get(key)
        return account is not None and account.in_move

    @property
    def is_full_of_moves(self) -> bool:
        """Whether no device is left on which one could begin."""
        return bool(self._then) and self._then.keys() >= {each.index for each in self._memory.devices()}

    def may_begin(self, model: Model) -> bool:
        """Whether none of its engine's devices is in a move."""
        account = self._accounts.get(model.engine_key)
        return account is None or not self._then.keys() & set(account.placement.devices)

    def begin(self, models: Iterable[Model]) -> None:
        """A move begins that takes from these engines."""
        for model in models:
            if account := self._accounts.get(model.engine_key):
                self._begin(account)

    def share(self, one: Model, other: Model) -> bool:
        """Whether the engines of two models have a device in common."""
        mine, its = (self._accounts.get(each.engine_key) for each in (one, other))
        return bool(mine and its and set(mine.placement.devices) & set(its.placement.devices))

    # What has happened.

    def loaded(
        self, model: Model, most_bytes: int, *, rank: int = 0, sleeps: bool = False, is_fresh: bool = True
    ) -> None:
        """An engine is up: what it took is what is no longer free, but no more than `most_bytes`, which its
        processes have. Of the host's memory it is these, since others there take and give too: this process
        400 MB at the first load. Without a fresh reading all that was promised is still to be taken."""
        if account := self._accounts.get(model.engine_key):
            placement = account.placement
            account.seen = account.seen and is_fresh
            if account.seen:
                most = most_bytes // len(placement.devices)
                taken = account.before - self._free(placement)
                account.used = most if account.need.in_processes else max(0, min(taken, most))
                self._memory.measured(model, account.used, rank)
            account.phase = Phase.UP
            account.sleeps = sleeps and 0 < account.need.host <= self.sleep_bytes
            self._end(account)

    def ends(self, model: Model) -> None:
        """An engine is to be closed."""
        if account := self._accounts.get(model.engine_key):
            account.leaves, account.closes = 0, True

    def gone(self, model: Model) -> None:
        """An engine's memory is back, or it was never loaded."""
        if account := self._accounts.pop(model.engine_key, None):
            self._end(account)

    def tires(self, model: Model, since: float) -> None:
        """An engine, used last at `since`, is to be put to sleep."""
        account = self._accounts[model.engine_key]
        account.host = account.need.host
        account.leaves, account.since = min(account.used, account.need.asleep), since

    def slept(self, model: Model, *, is_fresh: bool = True) -> None:
        """An engine is asleep: what it keeps is what is still not free."""
        if (account := self._accounts.get(model.engine_key)) is None:
            return
        account.phase, account.awake = Phase.ASLEEP, account.used or account.placement.bytes_each
        account.seen = account.seen and is_fresh
        if not account.seen:
            account.used = 0  # what stays of it counts as still to be taken
        else:
            on = account.placement.devices
            back = min(
                each.free - self._then[each.index] for each in self._memory.devices() if each.index in on
            )
            account.used = max(0, min(account.awake, account.awake - back))
        if not account.closes:
            account.leaves = None
        self._end(account)

    def not_slept(self, model: Model) -> None:
        """An engine could not be put to sleep, and is to be closed."""
        if account := self._accounts.get(model.engine_key):
            account.leaves, account.closes, account.sleeps = 0, True, False
            self._end(account)

    def woken(self, model: Model, *, is_fresh: bool = True) -> None:
        """An engine has again all that it had; without a fresh reading it counts as still to be taken."""
        if account := self._accounts.get(model.engine_key):
            account.phase = Phase.UP
            account.seen = is_fresh
            if is_fresh:
                account.used = account.awake
            self._end(account)

    # The host's memory, for those that sleep.

    def beds(self, model: Model, wanted: Set[str] = frozenset()) -> list[str] | None:
        """Which engines asleep, but for those `wanted`, are to be closed so that the host has room for this
        one, those used longest ago first; None: it cannot be put to sleep."""
        account = self._accounts.get(model.engine_key)
        if account is None or not account.sleeps or account.leaves is not None:
            return None
        if account.host:
            return []
        kept = [each for each in self._accounts.values() if not each.closes]
        over = sum(each.host for each in kept) + account.need.host - self.sleep_bytes
        short = account.need.host - self._memory.spare_host_bytes()
        asleep = [
            (each.since, key, each.host)
            for key, each in self._accounts.items()
            if each.phase is Phase.ASLEEP and each.leaves is None and key not in wanted
        ]
        going: list[str] = []
        for _, key, host in sorted(asleep):
            if over <= 0 and short <= 0:
                break
            going.append(key)
            over, short = over - host, short - host
        return going if over <= 0 and short <= 0 else None

    @property
    def has_beds(self) -> bool:
        """Whether those that were closed for others that are to sleep have given the memory back."""
        return self.host_used <= self.sleep_bytes

    @property
    def host_used(self) -> int:
        """Bytes of the host's memory that engines asleep have, or have kept since."""
        return sum(each.host for each in list(self._accounts.values()))  # also read by the thread of metrics

    def could_sleep(self, model: Model) -> bool:
        """Whether an engine of the model is worth being loaded so that it can be put to sleep."""
        return 0 < self._memory.need(model).host <= self.sleep_bytes

    # What there is.

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

    async def look(self) -> bool:
        """Have what is measured next be what there is now; whether that could be had."""
        if not await self._memory.fresh():
            return False
        for account in self._accounts.values():
            if account.phase is Phase.UP and not (account.seen or account.moving):
                # Its move ended while the driver did not answer: what is free now is so without it.
                account.seen, account.used = True, account.awake or account.placement.bytes_each
        return True

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
            if not await self._memory.fresh():
                return
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
        if not self._memory.tells:
            return []
        accounts = list(self._accounts.values())
        return [
            (device, sum(each.promised for each in accounts if device.index in each.placement.devices))
            for device in self._devices(settled=False)
        ]

    # Moves and accounts.

    def _begin(self, account: Account) -> None:
        account.moving, account.seen = True, self._memory.is_current
        for device in self._memory.devices():
            if device.index in account.placement.devices:
                self._then.setdefault(device.index, device.free)

    def _end(self, account: Account) -> None:
        account.moving = False
        beside = [each for each in self._accounts.values() if each.moving]  # engines that one move closes
        for index in account.placement.devices:
            if not any(index in each.placement.devices for each in beside):
                self._then.pop(index, None)

    def _devices(self, *, settled: bool = True) -> list[Device]:
        """The devices within the budget, once the moves under way have ended (`settled`) or now."""
        accounts = list(self._accounts.values())  # also read by the thread of metrics
        found: list[Device] = []
        for device in self._memory.devices():
            there = [each for each in accounts if device.index in each.placement.devices]
            used, free, total = sum(each.used for each in there), device.free, device.total
            if settled:
                remains = sum(each.remains for each in there)
                used, free = remains, self._then.get(device.index, free) + used - remains
            if self._budget:
                total, free = min(total, self._budget), min(free, self._budget - used)
            found.append(Device(device.index, total, free))
        return found

    def _residents(self, loaded: Iterable[policy.Loaded]) -> list[Resident]:
        """All that has an account: what is loaded, what is asleep, and what is in a move and so cannot go."""
        known = {each.key: each for each in loaded}
        found = (each.resident(known.get(key), key) for key, each in self._accounts.items())
        return [each for each in found if each is not None]

    def _free(self, placement: Placement) -> int:
        """Bytes free on the fullest of its devices, whatever the budget."""
        return min(each.free for each in self._memory.devices() if each.index in placement.devices)
