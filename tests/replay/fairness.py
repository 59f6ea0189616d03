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
    passed: Counter[FlowKey] = field(default_factory=Counter[FlowKey])
    overtaken_by: list[int] = field(default_factory=list[int])


class Fairness:
    """Told who waits for a turn, who begins and who ends."""

    def __init__(self, engine: str, journal: Journal) -> None:
        self._engine = engine
        self._journal = journal
        self._waits: dict[str, _Wait] = {}
        self._running: dict[str, FlowKey] = {}

    @property
    def waiting(self) -> int:
        return len(self._waits)

    @property
    def running(self) -> int:
        return len(self._running)

    def waits(self, name: str, flow: FlowKey) -> None:
        self._waits[name] = _Wait(flow)

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
        self._running[name] = wait.flow

    def ends(self, name: str) -> None:
        self._waits.pop(name, None)
        self._running.pop(name, None)

    def _note_passed(self, flow: FlowKey) -> None:
        seen: set[FlowKey] = set()
        own = set(self._running.values())
        for name, wait in self._waits.items():
            if wait.flow in seen or wait.flow == flow:
                continue
            seen.add(wait.flow)
            if wait.flow in own or flow.priority < wait.flow.priority:
                continue
            wait.passed[flow] += 1
            most = _PASSES if flow.priority == wait.flow.priority else 0
            self._journal.expect(
                wait.passed[flow] <= most, f"{name} waits in {self._engine} and {flow} goes on before it"
            )
