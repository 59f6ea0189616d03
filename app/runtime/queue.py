"""Whose request an engine works on next: one queue before each engine, in which keys take turns.

An engine serves what it is given in order, so it is given no more than it works on at once; the others wait
here and are chosen when a place is free. A turn has a number that the engine schedules by as well, for what
it puts off itself.
"""

import time
from asyncio import Future, get_running_loop
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from app.core.errors import EngineDied, Overloaded
from app.runtime import policy

BUSY = "server busy, please try again.  maximum pending requests exceeded"
_WHILE_S = 10.0


class Place(Protocol):
    """What a request has once it is its turn. `priority` is the engine's, a lower number first."""

    @property
    def priority(self) -> int: ...

    @property
    def waited_ns(self) -> int: ...

    @property
    def tokens(self) -> int:
        """Of its prompt."""
        ...

    @property
    def silent(self) -> bool:
        """Whether the engine has given no output yet."""
        ...

    def speaks(self) -> None:
        """The engine has given the first output."""
        ...


class Places(Protocol):
    """Where requests wait for an engine: `Turns`, or those of another process."""

    def turn(self, key_id: str, priority: int, tokens: int) -> AbstractAsyncContextManager[Place]:
        """See `Turns.turn`."""
        ...


class Turn:
    """A request's place: it waits for one, then has it. `priority` is the engine's, a lower number first."""

    __slots__ = ("_turns", "flow", "granted", "number", "silent", "since", "tokens", "waited_ns")

    def __init__(self, turns: "Turns", flow: policy.FlowKey, tokens: int, since: int) -> None:
        self._turns = turns
        self.flow = flow
        self.tokens = tokens
        self.since = since
        self.granted: Future[None] | None = None
        self.number: int | None = None
        self.silent = True
        self.waited_ns = 0

    @property
    def priority(self) -> int:
        return policy.engine_priority(self.flow.priority, self.number or 0)

    def speaks(self) -> None:
        """The engine has given the first output."""
        self.silent = False
        self._turns.heard(self)


class Turns:
    """The turns of one engine with `slots` places (0: any number), of which `spare` are for keys without one.

    The prompts of those that wait have at most `max_tokens` tokens together (0: no limit), or there is one.
    """

    def __init__(self, slots: int, max_tokens: int = 0, spare: int = 0) -> None:
        self._slots, self._spare = slots, spare
        self._max_tokens = max_tokens
        self._waiting: dict[policy.FlowKey, deque[Turn]] = {}
        self._tokens = self._arrivals = self._running = self._last = 0
        self._own: Counter[policy.FlowKey] = Counter()
        self._numbers: dict[policy.FlowKey, int] = {}
        self._silent: set[Turn] = set()
        self._reading: Counter[policy.FlowKey] = Counter()
        self._asked: dict[str, float] = {}  # when each key asked last, the latest at the end
        self._closed = False
        self.waiting = 0

    @asynccontextmanager
    async def turn(self, key_id: str, priority: int, tokens: int) -> AsyncGenerator[Turn, None]:
        """Have a place once it is this request's turn; `tokens` are those of its prompt.

        Raises:
            Overloaded: too much waits already, or another key's request needs the place more.
            EngineDied: there is no engine any more.
        """
        turn = Turn(self, policy.FlowKey(priority, key_id), tokens, self._arrivals)
        self._arrivals += 1
        self._note_asked(key_id)
        self._enter(turn)
        try:
            if turn.granted is not None:
                begun = time.monotonic_ns()
                await turn.granted
                turn.waited_ns = time.monotonic_ns() - begun
            yield turn
        finally:
            self._leave(turn)

    def displace(self, key_id: str, priority: int) -> bool:
        """Turn the newest request of the key away that has most of them here, if this key has fewer."""
        counts = {flow: len(turns) for flow, turns in self._waiting.items()}
        flow = policy.displaced(counts, policy.FlowKey(priority, key_id))
        if flow is None:
            return False
        turn = self._waiting[flow][-1]
        self._forget(turn)
        _fail(turn, Overloaded(BUSY))
        return True

    def heard(self, turn: Turn) -> None:
        """A request is silent no more: it has output, or it ends."""
        if turn in self._silent:
            self._silent.discard(turn)
            self._reading[turn.flow] -= 1
            self._fill()

    def close(self) -> None:
        """The engine is gone: nobody gets a place any more."""
        self._closed = True
        for turn in [each for turns in self._waiting.values() for each in turns]:
            self._forget(turn)
            _fail(turn, EngineDied())

    def _enter(self, turn: Turn) -> None:
        if self._closed:
            raise EngineDied
        if turn.flow not in self._waiting and self._may_begin(turn.flow):
            self._grant(turn)
            return
        if self._max_tokens and self._waiting and self._tokens + turn.tokens > self._max_tokens:
            raise Overloaded(BUSY)
        turn.granted = get_running_loop().create_future()
        self._waiting.setdefault(turn.flow, deque()).append(turn)
        self.waiting += 1
        self._tokens += turn.tokens

    def _leave(self, turn: Turn) -> None:
        if turn.number is None:
            self._forget(turn)
            return
        self._running -= 1
        self._own[turn.flow] -= 1
        self.heard(turn)
        self._fill()
        if not self._running:
            for each in (self._numbers, self._own, self._reading):
                each.clear()

    def _fill(self) -> None:
        """Give every free place to whoever is next."""
        while self._waiting:
            floor = self._floor()
            flows = [
                policy.Flow(key, policy.turn_number(self._numbers.get(key), floor), turns[0].since)
                for key, turns in self._waiting.items()
                if self._may_begin(key)
            ]
            if not flows:
                return
            turn = self._waiting[policy.next_flow(flows)][0]
            self._forget(turn)
            self._grant(turn)
            if turn.granted is not None and not turn.granted.done():
                turn.granted.set_result(None)

    def _grant(self, turn: Turn) -> None:
        turn.number = policy.turn_number(self._numbers.get(turn.flow), self._floor())
        self._last = self._numbers[turn.flow] = turn.number
        self._running += 1
        self._own[turn.flow] += 1
        self._silent.add(turn)
        self._reading[turn.flow] += 1

    def _may_begin(self, flow: policy.FlowKey) -> bool:
        if not policy.may_begin(self._running, self._own[flow], self._slots, self._spare):
            return False
        return policy.may_be_read(self._reading[flow], self._slots, contended=self._is_contended(flow))

    def _is_contended(self, flow: policy.FlowKey) -> bool:
        """Whether another key has asked within the last while."""
        # The latest two suffice: this is asked for every key that waits, and there may be thousands of keys.
        latest = next((at for key_id, at in reversed(self._asked.items()) if key_id != flow.key_id), None)
        return latest is not None and latest > get_running_loop().time() - _WHILE_S

    def _note_asked(self, key_id: str) -> None:
        now = get_running_loop().time()
        self._asked.pop(key_id, None)
        self._asked[key_id] = now
        while self._asked[oldest := next(iter(self._asked))] < now - _WHILE_S:
            del self._asked[oldest]

    def _floor(self) -> int:
        """The number of the earliest turn without any output yet, else of the newest."""
        return min((turn.number or 0 for turn in self._silent), default=self._last)

    def _forget(self, turn: Turn) -> None:
        """Take a request out of those that wait, if it is there."""
        turns = self._waiting.get(turn.flow)
        if turns is None or turn not in turns:
            return
        turns.remove(turn)
        self.waiting -= 1
        self._tokens -= turn.tokens
        if not turns:
            del self._waiting[turn.flow]


def _fail(turn: Turn, error: Exception) -> None:
    if turn.granted is not None and not turn.granted.done():
        turn.granted.set_exception(error)
