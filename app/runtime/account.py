"""One engine in the books of memory."""

from dataclasses import dataclass, replace
from enum import Enum, auto

from app.core.device import Need, Placement
from app.runtime import policy
from app.runtime.residency import Resident


class Phase(Enum):
    LOADING = auto()
    UP = auto()
    ASLEEP = auto()
    WAKING = auto()


@dataclass(slots=True)
class Account:
    """One engine: its place, the free bytes of that before its load, and what it has taken.

    `leaves` is what it will have on each device once a move has ended that takes from it, which has begun or
    is to begin; `closes`: that is its end, and no sleep. `seen`: the driver has told what its last move
    changed. `host` is what it has of the host's memory from its
    first sleep to its end: torch keeps such memory for the next sleep. `awake` is what it used before it
    slept, `since` when it was used last.
    """

    placement: Placement
    before: int
    need: Need
    phase: Phase = Phase.LOADING
    moving: bool = False
    leaves: int | None = None
    closes: bool = False
    seen: bool = True
    used: int = 0
    awake: int = 0
    host: int = 0
    sleeps: bool = False
    since: float = 0.0

    @property
    def remains(self) -> int:
        """What it uses once no move is under way any more."""
        return self.used if self.leaves is None else self.leaves

    @property
    def in_move(self) -> bool:
        """Whether a move of it is under way or to come."""
        return self.moving or self.leaves is not None

    @property
    def promised(self) -> int:
        """What counts as its own on each device."""
        if self.phase is Phase.ASLEEP:
            return self.used if self.seen else self.need.asleep
        return max(self.placement.bytes_each, self.used)

    def resident(self, entry: policy.Loaded | None, key: str) -> Resident | None:
        """What a decision sees of it; `entry` is what is loaded by its key, if anything is.

        What is in a move goes for nothing until that has ended, and counts with what it has then.
        """
        place = self.placement
        if self.leaves is not None:
            return Resident(_fixed(key), replace(place, bytes_each=self.leaves), self.leaves)
        if self.phase is Phase.ASLEEP:
            there = policy.Loaded(key, 0, 0.0, self.since)
            return Resident(there, replace(place, bytes_each=self.promised), self.used, asleep=True)
        if self.moving:
            return Resident(_fixed(key), place, self.used)
        if entry is None:
            return None
        return Resident(entry, place, self.used, self.need.asleep if self.sleeps else None)


def _fixed(key: str) -> policy.Loaded:
    return policy.Loaded(key, 1, 0.0, None, stays=True)
