"""What keys are promised of each other (docs/operations.md, "Of a model"), seen from one engine.

A request of a key that has none in the engine is not passed more than a few times by any other key, and by
none of a worse priority; the requests of one key begin in the order in which they came.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import takewhile

from app.runtime.policy import FlowKey
from tests.replay.journal import Journal

_PASSES = 2
"""A key may have been chosen once at the same moment, and once because its turn came in the same round."""


@dataclass(slots=True)
class _Wait:
    flow: FlowKey
    tokens: int
    since: int
    passed: Counter[FlowKey] = field(default_factory=Counter[FlowKey])
    overtaken_by: list[int] = field(default_factory=list[int])


class Fairness:
    """Told who waits for a turn, who begins, who has output and who ends."""

    def __init__(self, engine: str, slots: int, spare: int, journal: Journal) -> None:
        self._engine = engine
        self._slots, self._spare = slots, spare
        self._journal = journal
        self._waits: dict[str, _Wait] = {}
        self._running: dict[str, FlowKey] = {}
        self._silent: dict[str, FlowKey] = {}
        self._had_at: dict[FlowKey, float] = {}

    @property
    def tokens(self) -> int:
        """Those of the prompts that wait."""
        return sum(wait.tokens for wait in self._waits.values())

    def waits(self, name: str, flow: FlowKey, tokens: int) -> None:
        self._waits[name] = _Wait(flow, tokens, self._journal.turn())

    def begins(self, name: str, number: int) -> None:
        """`number` is the engine's priority that its turn has."""
        wait = self._waits[name]
        for other in takewhile(lambda each: each != name, self._waits):
            if self._waits[other].flow == wait.flow:
                self._waits[other].overtaken_by.append(number)
        del self._waits[name]
        for overtaker in wait.overtaken_by:
            self._journal.expect(overtaker > number, f"{name} is overtaken by a later request of its key")
        self._note_passed(wait.flow)
        self._running[name] = self._silent[name] = wait.flow
        self._had_at[wait.flow] = self._journal.now()

    def speaks(self, name: str) -> None:
        self._silent.pop(name, None)

    def ends(self, name: str) -> None:
        if name in self._running:
            self._had_at[self._running[name]] = self._journal.now()
        for each in (self._waits, self._running, self._silent):
            each.pop(name, None)

    def check_rest(self) -> None:
        """Nobody waits who could have a place, and no more have one than there are."""
        running, own = len(self._running), Counter(self._running.values())
        silent = Counter(self._silent.values())
        self._journal.expect(not self._slots or running <= self._slots, f"{self._engine} runs {running}")
        for name, wait in self._waits.items():
            free = not self._slots or running < self._slots - (self._spare if own[wait.flow] else 0)
            if free and silent[wait.flow] < max(1, self._slots // 8):
                self._journal.fault(f"{name} waits for a turn in {self._engine} beside a free place")

    def _note_passed(self, flow: FlowKey) -> None:
        seen: set[FlowKey] = set()
        own = set(self._running.values())
        for name, wait in self._waits.items():
            if wait.flow in seen or wait.flow == flow:
                continue
            seen.add(wait.flow)
            # One that began or ended in this moment may have had its place when the choice was made.
            has_one = wait.flow in own or self._had_at.get(wait.flow) == self._journal.now()
            # And a place is given a turn of the loop before its request begins.
            is_late = wait.since >= self._journal.turn() - 1
            if has_one or is_late or flow.priority < wait.flow.priority:
                continue
            wait.passed[flow] += 1
            most = _PASSES if flow.priority == wait.flow.priority else 0
            self._journal.expect(
                wait.passed[flow] <= most, f"{name} waits in {self._engine} and {flow} goes on before it"
            )
