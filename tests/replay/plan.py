"""What one seed decides: the server, who asks it for what, and what goes wrong when."""

import math
from dataclasses import MISSING, dataclass, fields
from random import Random
from typing import Any, Literal, TypeAlias

from app.core.context import Caller, Limits

GRID_S = 0.5
"""Times are multiples of this, so that what is to collide does; turns of the loop then tell them apart."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A time, and how many turns of the event loop after it."""

    at_s: float
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Leave:
    """A client that goes away: `after` its arrival, or after so many events. Some are ended twice."""

    after: Moment
    events: int | None = None
    twice: bool = False


Kind: TypeAlias = Literal["chat", "embed", "load", "unload"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `pauses_s` are before its deltas (None: the engine's own), `fault` is in place of one."""

    number: int
    arrives: Moment
    kind: Kind
    model: str
    key: int
    words: int
    deltas: int
    pauses_s: tuple[float, ...] | None = None
    num_predict: int | None = None
    keep_alive_s: float | None = None
    fault: Literal["", "fails", "dies", "raises"] = ""
    leave: Leave | None = None

    @property
    def name(self) -> str:
        return f"r{self.number}"


@dataclass(frozen=True, slots=True)
class Start:
    """How one start of an engine goes, and the engine that comes of it.

    One that is `stubborn` does not heed that it is cancelled.
    """

    takes_s: float
    ends: Literal["up", "fails", "raises", "hangs", "stubborn"] = "up"
    dies_after_s: float | None = None
    delay_s: float = 0.0
    close_s: float = 0.0
    close_fails: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """The server drains for so long, then it closes."""

    at: Moment
    grace_s: float


@dataclass(frozen=True, slots=True)
class Outage:
    """All these requests lose their clients in one turn of the loop, in this order."""

    at: Moment
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """`models` are names and the engines that they have."""

    seed: int
    models: dict[str, str]
    callers: tuple[Caller, ...]
    slots: int
    max_loaded: int
    max_queue: int
    max_queue_tokens: int
    keep_alive_s: float
    load_timeout_s: float
    crash_limit: int
    preload: str
    asks: tuple[Ask, ...]
    starts: tuple[Start, ...]
    outage: Outage | None
    stop: Stop | None

    @property
    def keyed(self) -> bool:
        return bool(self.callers[0].key_id)

    def lines(self) -> list[str]:
        """All of it, to be read."""
        rows: list[str] = []
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, tuple):
                rows += [f"{each.name}[{index}] {_told(one)}" for index, one in enumerate(value)]
            else:
                rows.append(f"{each.name} {value}")
        return rows


def _told(part: Any) -> str:
    """What of a part is not as it is by default."""
    told = [
        f"{each.name}={getattr(part, each.name)}"
        for each in fields(part)
        if getattr(part, each.name) != (each.default if each.default is not MISSING else None)
    ]
    return ", ".join(row for row in told if not row.startswith("scopes="))


_MODELS: tuple[dict[str, str], ...] = (
    {"a": "a"},
    {"a": "a", "b": "b"},
    {"a": "a", "a2": "a"},
    {"a": "a", "a2": "a", "b": "b"},
    {"a": "a", "b": "b", "c": "c"},
)
_KEEP_ALIVES_S = (0.0, GRID_S, 2.0, 30.0, math.inf)


def draw(seed: int) -> Plan:
    """The plan of a seed: a crowd for one model without much trouble, or else a bit of everything."""
    dice = Random(seed)
    crowd = dice.random() < 0.25
    models = _MODELS[0] if crowd else dice.choice(_MODELS)
    callers = _callers(dice, crowd=crowd)
    span_s = dice.choice((0.0, 2.0)) if crowd else dice.choice((0.0, 2.0, 10.0, 40.0))
    timeout_s = dice.choice((math.inf, 4.0))
    asks = tuple(
        _ask(dice, number, list(models), len(callers), span_s) for number in range(dice.randint(3, 18))
    )
    quiet = crowd or dice.random() < 0.4
    return Plan(
        seed=seed,
        models=models,
        callers=callers,
        slots=dice.choice((0, 1, 1, 2, 4, 16)),
        max_loaded=dice.choice((0, 1, 1, 2)),
        max_queue=64 if crowd else dice.choice((0, 1, 3, 8, 8, 64, 64)),
        max_queue_tokens=dice.choice((0, 0, 0, 20)),
        keep_alive_s=dice.choice(_KEEP_ALIVES_S),
        load_timeout_s=timeout_s,
        crash_limit=dice.choice((0, 1, 2, 5)),
        preload=dice.choice(("", *models)),
        asks=asks,
        starts=tuple(_start(dice, math.isfinite(timeout_s), quiet=quiet) for _ in range(12)),
        outage=_outage(dice, len(asks), span_s) if dice.random() < 0.2 else None,
        stop=Stop(_moment(dice, span_s + 5.0), dice.choice((0.0, 1.0, 30.0)))
        if dice.random() < 0.3
        else None,
    )


def _outage(dice: Random, asks: int, span_s: float) -> Outage:
    numbers = dice.sample(range(asks), max(2, asks // 2))
    return Outage(_moment(dice, span_s + 3.0), tuple(numbers))


def _moment(dice: Random, most_s: float) -> Moment:
    return Moment(dice.randint(0, int(most_s / GRID_S)) * GRID_S, dice.choice((0, 0, 1, 2, 3, 5, 8, 13)))


def _callers(dice: Random, *, crowd: bool) -> tuple[Caller, ...]:
    if dice.random() < 0.25:
        return (Caller(),)
    if crowd:
        return tuple(Caller(key_id=f"k{index}", priority=dice.choice((0, 0, 1))) for index in range(3))
    return tuple(
        Caller(
            key_id=f"k{index}",
            limits=Limits(
                requests_per_minute=dice.choice((None, None, 3)),
                tokens_per_minute=dice.choice((None, 30, 80)),
                concurrent_requests=dice.choice((None, None, 1, 3)),
                max_predict=dice.choice((None, None, 8)),
            ),
            priority=dice.choice((0, 0, 0, 1)),
        )
        for index in range(dice.randint(1, 4))
    )


def _ask(dice: Random, number: int, models: list[str], callers: int, span_s: float) -> Ask:
    deltas = dice.choice((1, 2, 3, 6))
    paused = dice.random() < 0.3
    return Ask(
        number=number,
        arrives=_moment(dice, span_s),
        kind=dice.choice(("chat", "chat", "chat", "chat", "chat", "embed", "load", "unload")),
        model=dice.choice(models),
        key=min(int(dice.expovariate(1.0)), callers - 1),  # The first key asks most.
        words=dice.choice((1, 3, 12)),
        deltas=deltas,
        pauses_s=tuple(dice.choice((0.0, GRID_S, 3.0)) for _ in range(deltas)) if paused else None,
        num_predict=dice.choice((None, None, 2, 8)),
        keep_alive_s=dice.choice((None, None, *_KEEP_ALIVES_S)),
        fault=dice.choice(("", "", "", "", "", "", "", "", "fails", "dies", "raises")),
        leave=_leave(dice) if dice.random() < 0.35 else None,
    )


def _leave(dice: Random) -> Leave:
    after = Moment(dice.choice((0.0, 0.0, GRID_S, 1.0, 3.0)), dice.randint(0, 24))
    return Leave(after, dice.choice((None, None, 1, 2)), twice=dice.random() < 0.2)


def _start(dice: Random, may_hang: bool, *, quiet: bool) -> Start:
    roll = 1.0 if quiet else dice.random()
    ends = "fails" if roll < 0.1 else "raises" if roll < 0.15 else "stubborn" if roll < 0.2 else "up"
    if may_hang and 0.2 <= roll < 0.3:
        ends = "hangs"
    return Start(
        takes_s=dice.choice((0.0, GRID_S, 2.0, 3.5)),
        ends=ends,
        dies_after_s=dice.choice((0.0, GRID_S, 2.0, 10.0)) if roll > 0.8 and not quiet else None,
        delay_s=dice.choice((0.0, 0.0, GRID_S)),
        close_s=dice.choice((0.0, 0.0, GRID_S, 2.0)),
        close_fails=0.7 < roll < 0.75,
    )
