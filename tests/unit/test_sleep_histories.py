"""Generated histories of a manager whose engines sleep, on devices of which several are in a move at once.

Memory is counted by the engines that are alive, and not by the ledger. Time is virtual; each seed has the
same history whenever it runs.
"""

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import pytest

from app.core.device import Device, Need
from app.core.errors import EngineDied, LoadFailed
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.runtime.ledger import Ledger
from app.runtime.manager import Manager
from app.runtime.observer import Recorder
from app.runtime.recovery import Recovery
from tests.unit.garage import model
from tests.unit.virtual_time import VirtualLoop, now

PATIENCE_S = 20.0
LONGEST_USE_S = 8
LONGEST_MOVE_S = 5
_TOO_LONG_S = 2_000.0
"""All loads, uses and waits of a history one after the other are shorter."""


class Engine(FakeEngine):
    """Has bytes of its devices and of the host, and sees that nothing happens to it at the wrong time."""

    def __init__(self, farm: "Farm", key: str, devices: tuple[int, ...]) -> None:
        super().__init__(can_sleep=True, memory_bytes=farm.sizes[key] * len(devices))
        self.farm, self.key, self.devices = farm, key, devices
        self.bytes, self.host = farm.sizes[key], 0
        self.users = 0
        self.is_dead = False

    def die(self) -> None:
        self.is_dead = True
        super().die()

    async def sleep(self) -> None:
        self.farm.expect(not self.users, f"{self.key} is put to sleep with requests")
        self.farm.expect(not self.asleep, f"{self.key} is put to sleep twice")
        with self.farm.moving(self.key, self.devices):
            self.host = self.farm.hosts[self.key]
            await self.farm.takes()
            await super().sleep()
            self.bytes = self.farm.kept
        self.farm.seen["asleep"] += 1

    async def wake(self) -> None:
        self.farm.expect(self.asleep, f"{self.key} is woken and was not asleep")
        with self.farm.moving(self.key, self.devices):
            self.bytes = self.farm.sizes[self.key]
            await self.farm.takes()
            await super().wake()
        self.farm.seen["awake"] += 1

    async def close(self) -> None:
        self.farm.expect(
            not self.users or self.is_dead or self.farm.ending, f"{self.key} is closed with requests"
        )
        with self.farm.moving(self.key, self.devices, closes=True):
            try:
                await self.farm.takes()
            finally:
                await super().close()
                self.bytes = self.host = 0
                self.farm.engines.remove(self)


class Farm:
    """Devices, their driver and the engines on them: `Memory` of a ledger, and how a model is loaded."""

    tells = True
    settles_s = 0.0

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        self.models = [model(f"m{number}") for number in range(dice.randint(2, 6))]
        keys = [each.engine_key for each in self.models]
        self.totals = [dice.choice([60, 100])] * dice.choice([1, 2, 3, 4])
        self.sizes = {key: dice.randint(10, 58) for key in keys}
        self.counts = {key: dice.choice([1, 1, 1, min(2, len(self.totals))]) for key in keys}
        self.only = {key: self._only(self.counts[key]) for key in keys}
        self.hosts = {key: dice.choice([10, 20, 40, 0]) for key in keys}
        self.kept = dice.choice([1, 3, 9])
        self.host_budget = dice.choice([0, 40, 60, 200])
        self.max_loaded = dice.choice([0, 0, 0, 2])
        self.faults = dice.choice([0.0, 0.0, 0.1])
        self.engines: list[Engine] = []
        self.in_move: list[tuple[str, tuple[int, ...], bool]] = []
        self.shown: Sequence[Device] = ()
        self.hangs_until = 0.0
        self.ending = False
        self.wrong: list[str] = []
        self.seen = Counter[str]()
        self.ledger = Ledger(self, self.max_loaded, sleep_bytes=self.host_budget)
        self.told = Recorder()

    def _only(self, count: int) -> tuple[int, ...]:
        return tuple(range(count)) if self.dice.random() < 0.15 else ()

    # The driver.

    def devices(self) -> Sequence[Device]:
        if now() >= self.hangs_until:
            self.shown = [Device(i, total, total - self.taken(i)) for i, total in enumerate(self.totals)]
        return self.shown

    @property
    def is_current(self) -> bool:
        return now() >= self.hangs_until

    async def fresh(self) -> bool:
        return self.is_current

    def need(self, model: Model) -> Need:
        key = model.engine_key
        asleep = self.kept if self.hosts[key] else 0
        size = self.sizes[key]
        return Need(size, size, self.counts[key], self.only[key], host=self.hosts[key], asleep=asleep)

    def measured(self, model: Model, bytes_each: int, rank: int) -> None:
        self.expect(bytes_each == self.sizes[model.engine_key], f"{model.name} is measured as {bytes_each}")

    def spare_host_bytes(self) -> int:
        return 1000

    # What is so.

    def taken(self, index: int) -> int:
        return sum(each.bytes for each in self.engines if index in each.devices)

    def expect(self, is_so: bool, fault: str) -> None:
        if not is_so:
            self.wrong.append(f"{now():.3f} {fault}")

    @contextmanager
    def moving(self, key: str, devices: tuple[int, ...], *, closes: bool = False) -> Generator[None]:
        """Only engines that end do so on one device together."""
        for other, its, other_closes in self.in_move:
            apart = (closes and other_closes) or not set(its) & set(devices)
            self.expect(apart, f"{key} moves on {devices} beside {other} on {its}")
            self.seen["side by side"] += not set(its) & set(devices)
        self.in_move.append(row := (key, devices, closes))
        self.check()
        try:
            yield
        finally:
            self.in_move.remove(row)
            self.check()

    def check(self) -> None:
        for index, total in enumerate(self.totals):
            self.expect(self.taken(index) <= total, f"device {index} is over its memory")
        self.expect(
            sum(each.host for each in self.engines) <= self.host_budget, "the host is over its budget"
        )
        awake = [each for each in self.engines if not each.asleep and not each.closed]
        self.expect(not self.max_loaded or len(awake) <= self.max_loaded, "too many are awake")

    async def takes(self) -> None:
        await asyncio.sleep(self.dice.choice([0, 0, 1, LONGEST_MOVE_S]))
        if self.dice.random() < self.faults:
            self.seen["faults"] += 1
            raise RuntimeError("it does not work")

    # Loads.

    async def start(self, wanted: Model) -> Engine:
        placement = self.ledger.placement(wanted)
        assert placement is not None
        key = wanted.engine_key
        self.expect(all(each.key != key for each in self.engines), f"{key} is loaded beside itself")
        engine = Engine(self, key, placement.devices)
        self.engines.append(engine)
        try:
            with self.moving(key, placement.devices):
                await self.takes()
        except BaseException:
            self.engines.remove(engine)
            raise
        self.seen["loads"] += 1
        return engine


class History:
    def __init__(self, seed: int) -> None:
        self.farm = farm = Farm(seed)
        self.dice = farm.dice
        self.manager = Manager(
            farm.start,
            keep_alive_s=self.dice.choice([0.0, 5.0, 300.0, math.inf]),
            load_timeout_s=math.inf,
            max_queue=1000,
            ledger=farm.ledger,
            patience_s=PATIENCE_S,
            observer=farm.told,
            recovery=Recovery(limit=0, clock=now, chance=lambda: 0.5),
            clock=now,
        )

    async def run(self) -> None:
        async with asyncio.timeout(_TOO_LONG_S):
            async with asyncio.TaskGroup() as group:
                for _ in range(self.dice.randint(10, 40)):
                    await asyncio.sleep(self.dice.choice([0, 0, 1, 4, 15]))
                    group.create_task(self.request(self.dice.choice(self.farm.models)))
                    self.happen()
            await asyncio.sleep(10)
        self.farm.expect(self.manager.in_use == 0, "the manager is not idle")
        self.farm.ending = True
        await self.manager.close()
        self.farm.expect(not self.farm.engines, "engines are left")

    def happen(self) -> None:
        """What else may: a death, an unload by hand, a driver that hangs for a while."""
        what = self.dice.random()
        if what < 0.05 and self.farm.engines:
            self.dice.choice(self.farm.engines).die()
        elif what < 0.1:
            self.manager.unload(self.dice.choice(self.farm.models))
        elif what < 0.13:
            self.farm.devices()
            self.farm.hangs_until = now() + 30

    async def request(self, wanted: Model) -> None:
        keep_alive_s = self.dice.choice([None, None, None, 0.0, 3.0, math.inf])
        patience_s = self.dice.choice([math.inf, math.inf, math.inf, 0.5])
        try:
            async with asyncio.timeout(patience_s if math.isfinite(patience_s) else None):
                async with self.manager.lease(wanted, keep_alive_s=keep_alive_s, num_ctx=None) as held:
                    await self.use(held.engine)
        except TimeoutError:
            self.farm.seen["left"] += 1
        except LoadFailed as error:
            self.farm.seen["failed"] += 1
            known = "does not work" in str(error) or "too large" in str(error) or "no longer" in str(error)
            self.farm.expect(known, f"{wanted.name}: {error}")
        except EngineDied:
            self.farm.seen["died"] += 1

    async def use(self, engine: object) -> None:
        assert isinstance(engine, Engine)
        self.farm.expect(not engine.asleep and not engine.closed, f"{engine.key} is given out asleep")
        engine.users += 1
        try:
            await asyncio.sleep(self.dice.randint(0, LONGEST_USE_S))
            if engine.is_dead:
                raise EngineDied
        finally:
            engine.users -= 1


@contextmanager
def quiet() -> Generator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def play(seed: int) -> History:
    with quiet(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        made: list[History] = []

        async def whole() -> None:
            made.append(History(seed))
            try:
                await made[0].run()
            except TimeoutError:
                made[0].farm.wrong.append("somebody waits for ever")

        runner.run(whole())
        return made[0]


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_no_history_has_a_fault(first: int) -> None:
    for seed in range(first, first + 100):
        farm = play(seed).farm
        assert not farm.wrong, f"seed {seed}: {farm.wrong}"


def test_everything_happens_that_histories_are_for() -> None:
    seen = Counter[str]()
    for seed in range(100):
        farm = play(seed).farm
        seen += farm.seen
        seen += Counter(event[0] for event in farm.told.events)
        seen += Counter(f"{event[0]} {event[2]}" for event in farm.told.events if len(event) > 2)
    for what in ("side by side", "asleep", "awake", "faults", "left", "died", "failed", "not woken"):
        assert seen[what] >= 5, (what, seen)
    for what in ("slept idle", "slept evicted", "unloaded evicted", "unloaded asked", "unloaded died"):
        assert seen[what] >= 5, (what, seen)
