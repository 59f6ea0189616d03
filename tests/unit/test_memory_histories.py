"""Thousands of generated histories of engines that share memory: what must hold after each step of each.

Memory here is counted by the engines that are alive, and not by the ledger: predictions may be wrong.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from app.core.context import ANYBODY
from app.core.device import Device, Need, Placement
from app.core.errors import LoadFailed
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.runtime.entries import Entries
from app.runtime.entry import Entry, State
from app.runtime.ledger import Ledger
from app.runtime.memory import Unlimited
from app.runtime.residency import Place
from app.runtime.steps import Close, Drop, Evict, Leave, Load, Refuse, Sleep, Wake
from tests.unit.garage import model

PATIENCE_S = 30.0
STEP_S = 1.0
LONGEST_USE = 20


@dataclass
class Machine:
    """Devices whose memory is that of the engines alive on them; `sizes` are their true bytes a device."""

    totals: list[int]
    sizes: dict[str, int]
    counts: dict[str, int]
    error: float = 0.0
    alive: dict[str, tuple[tuple[int, ...], int]] = field(
        default_factory=dict[str, tuple[tuple[int, ...], int]]
    )
    known: dict[str, int] = field(default_factory=dict[str, int])
    tells = is_current = True
    settles_s = 0.0

    def devices(self) -> Sequence[Device]:
        return [Device(index, total, total - self.taken(index)) for index, total in enumerate(self.totals)]

    def taken(self, index: int) -> int:
        return sum(size for on, size in self.alive.values() if index in on)

    def need(self, model: Model) -> Need:
        key = model.engine_key
        predicted = self.known.get(key, int(self.sizes[key] * (1 + self.error)))
        return Need(predicted, predicted, self.counts[key])

    def measured(self, model: Model, bytes_each: int, rank: int) -> None:
        self.known[model.engine_key] = bytes_each

    async def fresh(self) -> bool:
        return True

    def spare_host_bytes(self) -> int:
        return 0


class History:
    """One run: requests come and go, loads end, time passes; checks after each step."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        devices = self.random.choice([1, 1, 2, 4])
        self.models = [model(f"m{number}") for number in range(self.random.randint(2, 6))]
        self.machine = Machine(
            [self.random.choice([50, 100])] * devices,
            {each.engine_key: self.random.randint(5, 60) for each in self.models},
            {each.engine_key: self.random.randint(1, devices) for each in self.models},
            error=self.random.choice([0.0, 0.0, 0.2]),
        )
        self.books = Entries(
            keep_alive_s=1e9,
            max_queue=1000,
            max_queue_tokens=0,
            keyed=False,
            default_context=4096,
            ledger=Ledger(self.machine, self.random.choice([0, 0, 2])),
            patience_s=PATIENCE_S,
        )
        self.now = 0.0
        self.using: list[tuple[float, Entry]] = []
        self.told: list[str] = []
        self.served: set[str] = set()
        self.since: dict[Entry, float] = {}

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.now += STEP_S
            if self.random.random() < 0.7:
                self.arrive(self.random.choice(self.models))
            self.depart()
            self.work()
            self.check()
        while self.using or self.since:  # all who wait get their turn once nobody comes any more
            self.now += STEP_S
            assert self.now < steps * STEP_S + 100 * (PATIENCE_S + LONGEST_USE), "somebody waits for ever"
            self.depart()
            self.work()
            self.check()

    def arrive(self, wanted: Model) -> None:
        entry = self.books.join(wanted, None, None, ANYBODY)
        self.using.append((self.now + self.random.randint(1, LONGEST_USE), entry))
        if entry.state is State.QUEUED:
            self.since.setdefault(entry, self.now)

    def depart(self) -> None:
        for use in [each for each in self.using if each[0] <= self.now and each[1] not in self.since]:
            self.using.remove(use)
            entry = use[1]
            self.books.leave(entry)
            if not entry.users and entry.state is State.READY:
                entry.idle_since = self.now
            elif not entry.users and entry.state is State.LEAVING:
                self.books.retire(entry)

    def work(self) -> None:
        while (step := self.books.next_step(self.now)) is not None:
            assert not isinstance(step, Wake | Sleep), "none of these can sleep"
            match step:
                case Load(entry):
                    self.load(entry)
                case Close(entries):
                    self.close(entries)
                case Evict(entries):
                    for entry in entries:
                        assert not entry.users, f"{entry.key} is evicted with requests"
                        self.books.retire(entry)
                case Leave(entries):
                    for entry in entries:
                        assert entry.users, f"{entry.key} is to leave and has no requests"
                        self.books.let_go(entry)
                case Drop(entry):
                    self.books.discard(entry, LoadFailed("nobody waits"))
                case Refuse(entry, reason):
                    self.refused(entry, reason)

    def load(self, entry: Entry) -> None:
        placement = self.books.ledger.placement(entry.model)
        assert placement is not None
        assert entry.key not in self.machine.alive
        size = self.machine.sizes[entry.key]
        self.machine.alive[entry.key] = placement.devices, size
        engine = FakeEngine(memory_bytes=size * len(placement.devices))
        self.books.ready(entry, engine)
        self.books.ledger.loaded(entry.model, engine.memory_bytes)
        self.served.add(entry.key)
        self.since.pop(entry, None)
        self.told.append(f"{self.now:.0f} load {entry.key} {placement}")

    def close(self, entries: list[Entry]) -> None:
        for entry in entries:
            assert not entry.users, f"{entry.key} is closed with requests"
            del self.machine.alive[entry.key]
            self.books.ledger.gone(entry.model)

    def refused(self, entry: Entry, reason: str) -> None:
        need = self.machine.need(entry.model)
        assert need.least > self.machine.totals[0], reason
        self.books.discard(entry, LoadFailed(reason))
        self.since.pop(entry, None)
        for use in [each for each in self.using if each[1] is entry]:
            self.using.remove(use)
            self.books.leave(entry)

    def check(self) -> None:
        for index, total in enumerate(self.machine.totals):
            assert self.machine.taken(index) <= total, f"device {index} is over its memory"
        for entry, since in self.since.items():
            # Before it: those that are late as well, each of which may wait for the longest use.
            most = (PATIENCE_S + LONGEST_USE) * (len(self.models) + 1)
            assert self.now - since <= most, f"{entry.key} waits since {since}"


@pytest.mark.parametrize("first", range(0, 1000, 250))
def test_no_history_is_over_its_memory_or_starves_a_model(first: int) -> None:
    for seed in range(first, first + 250):
        history = History(seed)
        try:
            history.run(120)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}\n" + "\n".join(history.told)) from error


def test_histories_swap_models() -> None:
    swaps = 0
    for seed in range(50):
        history = History(seed)
        history.run(120)
        swaps += len(history.told) - len(history.served)
    assert swaps > 100


def test_a_budget_holds_though_the_host_has_more() -> None:
    machine = Machine([1000], {"a": 60, "b": 60}, {"a": 1, "b": 1})
    books = Entries(
        keep_alive_s=300,
        max_queue=8,
        max_queue_tokens=0,
        keyed=False,
        default_context=4096,
        ledger=Ledger(machine, budget_bytes=100),
    )
    first = books.join(model("a"), None, None, ANYBODY)
    step = books.next_step()
    assert step == Load(first)
    machine.alive["a"] = (0,), 60
    books.ready(first, FakeEngine())
    books.ledger.loaded(first.model, 60)
    books.join(model("b"), None, None, ANYBODY)
    assert books.next_step() is None
    books.leave(first)
    assert books.next_step() == Evict([first])
    assert books.ledger.rows() == [(Device(0, 100, 40), 60)]
    assert books.ledger.placement(first.model) == Placement((0,), 60, 1000), (
        "an engine takes shares of all of it"
    )


def test_where_nothing_is_known_of_memory_no_place_is_given() -> None:
    """vLLM would be told to take nothing of the device."""
    ledger = Ledger(Unlimited())
    assert ledger.decide(model("a"), ()) == Place(Placement((0,), 0, 1 << 62))
    assert ledger.placement(model("a")) is None
