"""What is to be done next for the engines; `Load`, `Wake`, `Sleep` and `Close` are moves, which take time."""

from dataclasses import dataclass
from typing import TypeAlias

from app.runtime.entry import Entry


@dataclass(frozen=True, slots=True)
class Load:
    """Start the engine of an entry."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake the engine of `sleeper` for an entry that is queued."""

    entry: Entry
    sleeper: Entry


@dataclass(frozen=True, slots=True)
class Sleep:
    """Put the engine of an entry to sleep that was laid down."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Close:
    """Close the engines of entries that have gone."""

    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Evict:
    """Have idle entries make room for the one that is next: those of `asleep` may be put to sleep for it,
    the others, which may be asleep already, are closed."""

    entries: list[Entry]
    asleep: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Drop:
    """Give an entry up that nobody waits for: no engine goes for it."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Leave:
    """Let entries in use go once those who use them have ended: another has waited for long enough."""

    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Fail an entry that finds no room even alone, or of whose device nothing is known."""

    entry: Entry
    reason: str


Step: TypeAlias = Load | Wake | Sleep | Close | Evict | Drop | Leave | Refuse
