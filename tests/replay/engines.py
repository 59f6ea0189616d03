"""The engines of a history: how their starts go, what they answer, and what they see of their users."""

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from app.core.errors import AppError, EngineDied, EngineFailed, InvalidRequest, LoadFailed
from app.core.events import Delta
from app.core.model import Model
from app.engine.base import Admit, Prompt, Run, Vectors
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.engine.fake.words import Words
from app.runtime.policy import spare_places
from app.runtime.queue import Turns
from tests.replay.fairness import Fairness
from tests.replay.journal import Journal
from tests.replay.plan import GRID_S, Ask, Plan, Start

WINDOW = 64
_NAME = re.compile(r"\br(\d+)\b")


class ReplayEngine(FakeEngine):
    """Answers as the ask's plan has it, and dies and closes as that of its start does."""

    def __init__(self, fleet: "Fleet", key: str, name: str, start: Start) -> None:
        super().__init__(
            self._reply_to,
            window=WINDOW,
            slots=fleet.plan.slots,
            delay_s=start.delay_s,
            words=fleet.words,
            embedding_length=2,
        )
        self.name = name
        self.key = key
        self.start = start
        self.dead = self.closing = self.gone = False
        self.holders: set[str] = set()
        self.turns: Turns | None = None
        spare = spare_places(fleet.plan.slots) if fleet.plan.keyed else 0
        self.fairness = Fairness(name, fleet.plan.slots, spare, fleet.journal)
        self._fleet = fleet
        if start.dies_after_s is not None:
            asyncio.get_running_loop().call_later(start.dies_after_s, self.die)

    def die(self) -> None:
        if not (self.dead or self.closing):
            self.dead = True
            self._fleet.journal.note(f"{self.name} dies")
            super().die()

    async def _generate(self, prompt: Prompt, run: Run) -> AsyncGenerator[Delta, None]:
        ask = self._ask_of(prompt.text)
        self._begins(ask, run.priority)
        async with aclosing(super()._generate(prompt, run)) as deltas:
            async for delta in deltas:
                yield delta
                self.fairness.speaks(ask.name)

    async def embed(
        self,
        inputs: Sequence[str],
        *,
        truncate: bool,
        limit: int,
        normalize: bool,
        admit: Admit | None = None,
        cache_salt: str = "",
        trace: Mapping[str, str] | None = None,
    ) -> Vectors:
        async def begun(tokens: int) -> int:
            assert admit is not None
            priority = await admit(tokens)
            self._begins(self._ask_of(inputs[0]), priority)
            return priority

        return await super().embed(inputs, truncate=truncate, limit=limit, normalize=normalize, admit=begun)

    async def close(self) -> None:
        self._fleet.closes(self)
        self.closing = True
        await super().close()
        if self.start.close_s:
            await asyncio.sleep(self.start.close_s)
        self._fleet.closed(self)
        if self.start.close_fails:
            raise RuntimeError("the engine's process did not end")

    def _begins(self, ask: Ask, priority: int) -> None:
        self._fleet.journal.note(f"{ask.name} begins in {self.name}")
        self._fleet.journal.expect(not self.closing, f"{ask.name} begins in {self.name}, which closes")
        self.fairness.begins(ask.name, priority)

    def _ask_of(self, text: str) -> Ask:
        found = _NAME.search(text)
        assert found is not None
        return self._fleet.plan.asks[int(found[1])]

    def _reply_to(self, prompt: Prompt, run: Run) -> Reply:
        ask = self._ask_of(prompt.text)
        pauses = ask.pauses_s
        return Reply(
            deltas_of(ask),
            gate=None if pauses is None else lambda index: asyncio.sleep(pauses[index]),
            error=_error(ask),
            error_after=ask.deltas - 1,
        )


def deltas_of(ask: Ask) -> list[str]:
    return [f" {ask.name}w{index}" for index in range(ask.deltas)]


def _error(ask: Ask) -> AppError | None:
    match ask.fault:
        case "fails":
            return EngineFailed("the engine failed")
        case "dies":
            return EngineDied()
        case "raises":
            return InvalidRequest("the engine does not take this")
        case _:
            return None


class Fleet:
    """Starts engines and sees that they fit the device: one move at a time, `max_loaded` at most."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self.plan = plan
        self.journal = journal
        self.words = Words()
        self.engines: list[ReplayEngine] = []
        self.loading = ""
        self.closings = 0
        self.ending = False
        self._starts = 0

    @property
    def alive(self) -> list[ReplayEngine]:
        """Those that take memory: until they are closed, dead ones too."""
        return [engine for engine in self.engines if not engine.gone]

    @property
    def moves(self) -> bool:
        """Whether an engine starts or closes."""
        return bool(self.loading or self.closings)

    async def start(self, model: Model) -> ReplayEngine:
        plan, number = self.plan, self._starts
        self._starts += 1
        way = plan.starts[number] if number < len(plan.starts) else Start(GRID_S)
        name = f"{model.engine_key}#{number}"
        self.journal.note(f"{name} starts for {model.name.model}")
        self.journal.expect(not self.moves, f"{name} starts during another move")
        self.journal.expect(
            not plan.max_loaded or len(self.alive) < plan.max_loaded, f"{name} starts beyond max_loaded"
        )
        self.loading = name
        try:
            await self._come_up(way)
            engine = ReplayEngine(self, model.engine_key, name, way)
            self.engines.append(engine)
            self.journal.note(f"{name} is up")
            return engine
        except BaseException as error:
            self.journal.note(f"{name} does not start: {type(error).__name__}")
            raise
        finally:
            self.loading = ""

    async def _come_up(self, way: Start) -> None:
        try:
            await asyncio.sleep(math.inf if way.ends == "hangs" else way.takes_s)
        except asyncio.CancelledError:
            if way.ends != "stubborn":
                raise
        if way.ends == "fails":
            raise LoadFailed("it does not fit")
        if way.ends == "raises":
            raise RuntimeError("no such file")

    def closes(self, engine: ReplayEngine) -> None:
        self.journal.note(f"{engine.name} closes")
        self.journal.expect(not engine.closing, f"{engine.name} closes twice")
        self.journal.expect(not self.loading, f"{engine.name} closes during a start")
        if not (engine.dead or self.ending):
            self.journal.expect(
                not engine.holders, f"{engine.name} closes while {sorted(engine.holders)} hold it"
            )
        self.closings += 1

    def closed(self, engine: ReplayEngine) -> None:
        self.journal.note(f"{engine.name} is closed")
        engine.gone = True
        self.closings -= 1
