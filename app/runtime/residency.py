"""Which devices an engine goes to, and which engines go for it: pure functions of bytes and clock values.

Ollama unloads idle models until the next one fits (docs/reference 17); so is it here, by device. For a
sequence of one host the same holds as for eight GPUs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from typing import TypeAlias

from app.core.device import Device, Need, Placement, gib
from app.runtime import policy

_MOST_SETS = 2000
"""Sets of devices looked at; beyond it only those that lie next to each other are."""


@dataclass(frozen=True, slots=True)
class Resident:
    """An engine that is loaded, and its place; `used` are the bytes that it has in fact on each device.

    `kept` are those that stay where it is put to sleep; None: it can only be closed. One that is `asleep` has
    no more than these.
    """

    loaded: policy.Loaded
    placement: Placement
    used: int
    kept: int | None = None
    asleep: bool = False

    @property
    def unused(self) -> int:
        """What it was promised and has not taken yet."""
        return max(0, self.placement.bytes_each - self.used)

    @property
    def returns(self) -> int:
        """What its end makes free for others."""
        return max(self.placement.bytes_each, self.used)


@dataclass(frozen=True, slots=True)
class Place:
    """Load it here, now."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class MakeRoom:
    """Unload these idle engines first, so that there is room `on` these devices.

    For those of `asleep` it is enough that they are put to sleep.
    """

    keys: tuple[str, ...]
    asleep: tuple[str, ...] = ()
    on: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """There is room once all of these have gone, of which some are in use."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Impossible:
    """It would find no room if it were alone, or (not `is_too_large`) nobody knows whether it would."""

    reason: str
    is_too_large: bool = True


Decision: TypeAlias = Place | MakeRoom | Wait | Impossible


def decide(
    need: Need, devices: Sequence[Device], residents: Sequence[Resident], max_loaded: int = 0
) -> Decision:
    """What is to be done so that an engine with this need can be loaded (`max_loaded` 0: any number).

    1. Where it fits beside all others, it goes to the devices with the most room.
    2. Else the fewest idle engines go for it: those of least value, which are those asleep, then those with
       the shortest keep-alive, then those used longest ago. Of these the most valuable are put to sleep, as
       many as leave it enough.
    3. Else it waits for some in use, again the fewest and least valuable.
    4. Where even that is not enough, all of it once more with its `bare` need.
    """
    usable = [each for each in devices if not need.only or each.index in need.only]
    if len(usable) < need.count:
        return Impossible(f"it needs {need.count} devices, and there are {len(usable)} for it")
    movable = [each for each in residents if not each.loaded.stays]
    idle = [each for each in movable if not each.loaded.users]
    sets = list(_sets(usable, need.count))
    for candidates, makes_room in ((idle, True), (movable, False)):
        if (found := _cheapest(need, sets, residents, candidates, max_loaded)) is None:
            continue
        chosen, going = found
        if not going:
            there = [device for device in usable if device.index in chosen]
            most = min(room(device, residents) for device in there)
            return Place(Placement(chosen, min(need.most, most), min(device.total for device in there)))
        keys = tuple(each.loaded.key for each in going)
        if not makes_room:
            return Wait(keys)
        short = {each.index: need.least - room(each, residents) for each in usable if each.index in chosen}
        return MakeRoom(keys, _may_sleep(short, going), chosen)
    return Impossible(_why(need, usable, residents))


def room(device: Device, residents: Sequence[Resident]) -> int:
    """Bytes of a device that nobody has taken or was promised."""
    return device.free - sum(each.unused for each in residents if device.index in each.placement.devices)


def _sets(devices: Sequence[Device], count: int) -> Iterator[tuple[Device, ...]]:
    if comb(len(devices), count) <= _MOST_SETS:
        yield from combinations(devices, count)
    else:
        for first in range(len(devices) - count + 1):
            yield tuple(devices[first : first + count])


def _cheapest(
    need: Need,
    sets: Sequence[tuple[Device, ...]],
    residents: Sequence[Resident],
    candidates: Sequence[Resident],
    max_loaded: int,
) -> tuple[tuple[int, ...], list[Resident]] | None:
    """The set of devices for which the fewest and least valuable of the candidates go, and these."""
    ranked = sorted(candidates, key=_value)
    rank = {each.loaded.key: number for number, each in enumerate(ranked)}
    best: tuple[tuple[object, ...], tuple[int, ...], list[Resident]] | None = None
    for devices in sets:
        if (going := _going(need, devices, residents, ranked, max_loaded)) is None:
            continue
        spare = min(room(device, residents) for device in devices)
        cost = (
            len(going),
            sum(each.loaded.users for each in going),
            sorted((rank[each.loaded.key] for each in going), reverse=True),
            -spare,
        )
        if best is None or cost < best[0]:  # type: ignore[operator]
            best = cost, tuple(device.index for device in devices), going
    return None if best is None else best[1:]


def _going(
    need: Need,
    devices: Sequence[Device],
    residents: Sequence[Resident],
    ranked: Sequence[Resident],
    max_loaded: int,
) -> list[Resident] | None:
    """Those of `ranked` that go so that these devices have room; None where all of them are too few."""
    short = {device.index: need.least - room(device, residents) for device in devices}
    going: list[Resident] = []
    for each in ranked:
        if any(short.get(index, 0) > 0 for index in each.placement.devices):
            going.append(each)
            _take(short, each, -each.returns)
    if max(short.values()) > 0:
        return None
    for each in list(going):  # A big one that came late may have made an early one needless.
        if all(short.get(index, -each.returns) + each.returns <= 0 for index in each.placement.devices):
            going.remove(each)
            _take(short, each, each.returns)
    return _down_to(max_loaded, going, residents, ranked)


def _may_sleep(short: dict[int, int], going: Sequence[Resident]) -> tuple[str, ...]:
    """Those of the engines that go which need not be closed, though each keeps something of its devices."""
    for each in going:
        _take(short, each, -each.returns)
    keys: list[str] = []
    for each in sorted(going, key=_value, reverse=True):
        if each.kept is None:
            continue
        if all(short.get(index, -each.kept) + each.kept <= 0 for index in each.placement.devices):
            keys.append(each.loaded.key)
            _take(short, each, each.kept)
    return tuple(keys)


def _take(short: dict[int, int], resident: Resident, count: int) -> None:
    for index in resident.placement.devices:
        if index in short:
            short[index] += count


def _down_to(
    max_loaded: int, going: list[Resident], residents: Sequence[Resident], ranked: Sequence[Resident]
) -> list[Resident] | None:
    """With as many more as have to go for their number; None where there are too few. What is asleep is not
    loaded."""
    there = sum(not each.asleep for each in residents) - sum(not each.asleep for each in going)
    excess = there + 1 - max_loaded if max_loaded else 0
    others = [each for each in ranked if each not in going and not each.asleep]
    if excess > len(others):
        return None
    return going + others[: max(0, excess)]


def _value(each: Resident) -> tuple[bool, bool, float, float, str]:
    """Engines in the order in which they go: those asleep first, then idle ones."""
    loaded = each.loaded
    since = loaded.idle_since or 0.0
    return not each.asleep, bool(loaded.users), loaded.keep_alive_s, since, loaded.key


def _why(need: Need, usable: Sequence[Device], residents: Sequence[Resident]) -> str:
    def alone(device: Device) -> int:
        mine = (each.returns for each in residents if device.index in each.placement.devices)
        return room(device, residents) + sum(mine)

    best = sorted(map(alone, usable), reverse=True)[need.count - 1]
    where = "the device" if need.count == 1 else f"each of {need.count} devices"
    total = max(device.total for device in usable)
    return f"it needs {gib(need.least)} on {where}, and of {gib(total)} models can have {gib(best)}"
