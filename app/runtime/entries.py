"""The state of the manager and what is to be done next: decisions without a loop, a clock or effects.

It is told what happened, and says what is to be done, which others do.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from app.core.context import Caller
from app.core.errors import LoadFailed, Overloaded
from app.core.model import Model, ModelName
from app.engine.base import Engine
from app.runtime import policy
from app.runtime.entry import Entry, LoadedModel, State
from app.runtime.queue import BUSY, Turns


@dataclass(frozen=True, slots=True)
class Load:
    """Start the engine of an entry."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Close:
    """Close the engines of entries that have gone."""

    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Evict:
    """Retire idle entries, so that there is room for the one that is next."""

    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Drop:
    """Give an entry up that nobody waits for: no engine goes for it."""

    entry: Entry


Step: TypeAlias = Load | Close | Evict | Drop


class Entries:
    """At most one entry for each engine; `queue` are those to load, `doomed` those to close. What an
    `outgrown` one still serves ends there, before another is loaded in its place.

    `waiting` are the requests that wait for a load, `users` those that hold an engine or wait for one. The
    other fields are those of `Manager`.
    """

    def __init__(
        self,
        *,
        keep_alive_s: float,
        max_loaded: int,
        max_queue: int,
        max_queue_tokens: int,
        keyed: bool,
        default_context: int,
    ) -> None:
        self._keep_alive_s = keep_alive_s
        self._max_loaded = max_loaded
        self._max_queue, self._max_queue_tokens = max_queue, max_queue_tokens
        self._keyed = keyed
        self._default_context = default_context
        self._by_key: dict[str, Entry] = {}
        self._queue: deque[Entry] = deque()
        self._doomed: list[Entry] = []
        self.outgrown: list[Entry] = []
        self.waiting = self.users = 0

    # What there is.

    def of(self, model: Model) -> Entry | None:
        """The entry of the model's engine."""
        return self._by_key.get(model.engine_key)

    def within(self, *states: State) -> list[Entry]:
        """The entries in one of these states."""
        return [entry for entry in self._by_key.values() if entry.state in states]

    def rows(self, now: float, wall: datetime) -> list[LoadedModel]:
        """What is loaded, the one that stays longest first."""
        rows = [
            entry.row(engine, self.context_length(engine, entry.num_ctx), now, wall)
            for entry, engine in self.loaded()
        ]
        return sorted(rows, key=lambda row: row.expires_at, reverse=True)

    def loaded(self) -> list[tuple[Entry, Engine]]:
        """What is loaded, in no order. May be read from any thread."""
        entries = [*self._by_key.values(), *self.outgrown]
        return [(each, each.engine) for each in entries if each.engine is not None]

    def context_length(self, engine: Engine, num_ctx: int | None) -> int:
        """The context of a request that asked for `num_ctx`."""
        return min(num_ctx or self._default_context, engine.window)

    # What happens to one: a request joins and leaves, a model is unloaded, an engine comes and goes.

    def join(self, model: Model, keep_alive_s: float | None, num_ctx: int | None, caller: Caller) -> Entry:
        """One more request; the entry is made and queued where there is none.

        Raises:
            Overloaded: too many wait already.
        """
        entry = self.of(model)
        users, slots = (0, None) if entry is None else (entry.users, entry.slots)
        if not policy.admits(users, slots, self.waiting, self._max_queue) and (
            entry is None or not entry.turns.displace(caller.key_id, caller.priority)
        ):
            raise Overloaded(BUSY)
        if entry is None:
            entry = Entry(model, self._keep_alive_s)
            self.enqueue(entry)
        entry.users += 1
        entry.num_ctx = num_ctx
        entry.claim(self._whose(model), keep_alive_s, self._keep_alive_s)
        if keep_alive_s is not None:
            entry.leaves = "idle"
        self.users += 1
        return entry

    def leave(self, entry: Entry) -> None:
        """One request less."""
        self.users -= 1
        entry.users -= 1

    def preloaded(self, model: Model) -> Entry:
        """A new entry of a model that nobody has asked for."""
        entry = Entry(model, self._keep_alive_s)
        entry.claim(self._whose(model), self._keep_alive_s)
        return entry

    def release(self, entry: Entry, model: Model) -> bool:
        """End the model's claim to an entry; whether it is to go, as nothing else keeps it."""
        is_last = entry.release(self._whose(model))
        if is_last:
            entry.leaves = "asked"
        return is_last

    def keep(self, entry: Entry) -> None:
        """Have an entry that is loaded without being asked for, in time."""
        entry.kept = True
        entry.state = State.BACKING_OFF
        self._by_key[entry.key] = entry

    def enqueue(self, entry: Entry) -> None:
        """Its turn to be loaded will come."""
        entry.state = State.QUEUED
        self._by_key[entry.key] = entry
        self._queue.append(entry)

    def ready(self, entry: Entry, engine: Engine) -> None:
        """Its engine is loaded."""
        spare = policy.spare_places(engine.slots) if self._keyed else 0
        entry.engine, entry.turns = engine, Turns(engine.slots, self._max_queue_tokens, spare)
        entry.state = State.READY
        entry.settled.set()

    def outgrow(self, entry: Entry) -> None:
        """Take a ready entry out of the books; its engine is closed once nobody uses it."""
        self._remove(entry)
        entry.state = State.OUTGROWN
        self.outgrown.append(entry)

    def retire(self, entry: Entry) -> None:
        """Take a ready or outgrown entry away; its engine is to be closed."""
        self._remove(entry)
        entry.turns.close()
        self._doomed.append(entry)

    def discard(self, entry: Entry, error: LoadFailed | Overloaded) -> None:
        """Take an entry away that never had an engine."""
        if entry.state is State.QUEUED:
            self._queue.remove(entry)
        self._remove(entry)
        entry.error = error
        entry.settled.set()

    # What is next.

    def next_step(self) -> Step | None:
        """Close what is doomed; else load the first of the queue that can be, or make room for it."""
        if self._doomed:
            doomed, self._doomed = self._doomed, []
            return Close(doomed)
        still_there = {each.key for each in self.outgrown}
        entry = next((each for each in self._queue if each.key not in still_there), None)
        if entry is None:
            return None
        loaded = _snapshots((*self.within(State.READY), *self.outgrown))
        victims = policy.victims(loaded, self._max_loaded)
        if victims == []:
            self._queue.remove(entry)
            entry.state = State.LOADING
            return Load(entry)
        if not entry.users:
            return Drop(entry)
        return None if victims is None else Evict([self._by_key[key] for key in victims])

    def _remove(self, entry: Entry) -> None:
        entry.stop_timer()
        if entry.state is State.OUTGROWN:
            self.outgrown.remove(entry)  # what has its key in the books now is another
        else:
            del self._by_key[entry.key]
        entry.state = State.GONE

    def _whose(self, model: Model) -> ModelName | None:
        """Under what an entry's keep-alive by this model is kept."""
        return model.name if self._keyed else None


def _snapshots(entries: Iterable[Entry]) -> list[policy.Loaded]:
    return [entry.snapshot() for entry in entries]
