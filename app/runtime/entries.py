"""The state of the manager and what is to be done next: decisions without a loop, a clock or effects.

It is told what happened, and says what is to be done, which others do.
"""

import math
from collections import deque
from datetime import datetime

from app.core.context import Caller
from app.core.errors import LoadFailed, Overloaded
from app.core.model import Model, ModelName
from app.engine.base import Engine
from app.runtime import policy
from app.runtime.entry import Entry, LoadedModel, State
from app.runtime.ledger import Awaken, Later, Ledger
from app.runtime.memory import Unlimited
from app.runtime.queue import BUSY, Turns
from app.runtime.residency import Decision, Impossible, MakeRoom, Place, Wait
from app.runtime.sleepers import Sleepers
from app.runtime.steps import Close, Drop, Evict, Leave, Load, Refuse, Sleep, Step, Wake


class Entries:
    """At most one entry for each engine; `queue` are those to load, `doomed` those to close. What a leaving
    one still serves ends there, before another is loaded in its place. Engines asleep have the entries of
    their last load, which nobody joins; the next request makes a new one, for which the engine is woken.

    An entry that has been blocked by engines in use for `patience_s` gets its turn: these leave, and until
    then nothing else is loaded.

    `waiting` are the requests that wait for a load, `users` those that hold an engine or wait for one. The
    other fields are those of `Manager`.
    """

    def __init__(
        self,
        *,
        keep_alive_s: float,
        max_queue: int,
        max_queue_tokens: int,
        keyed: bool,
        default_context: int,
        ledger: Ledger | None = None,
        patience_s: float = math.inf,
    ) -> None:
        self._keep_alive_s = keep_alive_s
        self.ledger = ledger or Ledger(Unlimited())
        self.sleepers = Sleepers(self.ledger)
        self._patience_s = patience_s
        self._max_queue, self._max_queue_tokens = max_queue, max_queue_tokens
        self._keyed = keyed
        self._default_context = default_context
        self._by_key: dict[str, Entry] = {}
        self._queue: deque[Entry] = deque()
        self._doomed: list[Entry] = []
        self._leaving: list[Entry] = []
        self.waiting = self.users = 0

    # What there is.

    def of(self, model: Model) -> Entry | None:
        """The entry of the model's engine."""
        return self._by_key.get(model.engine_key)

    def within(self, *states: State) -> list[Entry]:
        """The entries in one of these states."""
        there = (*self._by_key.values(), *self._leaving, *self.sleepers)
        return [entry for entry in there if entry.state in states]

    def rows(self, now: float, wall: datetime) -> list[LoadedModel]:
        """What is loaded, the one that stays longest first."""
        rows = [
            entry.row(engine, self.context_length(engine, entry.num_ctx), now, wall)
            for entry, engine in self.loaded()
        ]
        return sorted(rows, key=lambda row: row.expires_at, reverse=True)

    def loaded(self) -> list[tuple[Entry, Engine]]:
        """What is loaded, in no order. May be read from any thread."""
        entries = [*list(self._by_key.values()), *list(self._leaving)]
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

    def let_go(self, entry: Entry) -> None:
        """Take a ready entry away from those who come: its engine ends with its last user."""
        self._remove(entry)
        entry.state = State.LEAVING
        self._leaving.append(entry)

    def retire(self, entry: Entry) -> None:
        """Take an entry that has an engine away; that is to be closed."""
        self._take_away(entry)
        entry.state = State.GONE
        self.ledger.ends(entry.model)
        self._doomed.append(entry)

    def beds(self, entry: Entry) -> list[Entry] | None:
        """Which engines asleep go so that this one can be put to sleep, but none that is about to be woken;
        None: it cannot be."""
        return self.sleepers.beds(entry, {each.key for each in self._queue})

    def lay_down(self, entry: Entry) -> None:
        """Take an idle entry away; its engine is to be put to sleep. There are `beds` for it."""
        self._take_away(entry)
        self.sleepers.add(entry)

    def requeue(self, entry: Entry) -> None:
        """An entry whose engine could not be woken is the next to be loaded."""
        entry.state = State.QUEUED
        self._queue.appendleft(entry)

    def _take_away(self, entry: Entry) -> None:
        if entry.state is State.LEAVING:
            self._leaving.remove(entry)
        elif entry.state in (State.DOZING, State.ASLEEP):
            self.sleepers.remove(entry)
        else:
            self._remove(entry)
        entry.turns.close()

    def discard(self, entry: Entry, error: LoadFailed | Overloaded) -> None:
        """Take an entry away that never had an engine."""
        if entry.state is State.QUEUED:
            self._queue.remove(entry)
        self._remove(entry)
        entry.error = error
        entry.settled.set()

    # What is next.

    def next_step(self, now: float = 0.0) -> Step | None:
        """What is to be done at this clock value; None: nothing before something ends, or `next_look_s`.

        1. What is doomed is closed, and what was laid down is put to sleep.
        2. The first in the queue for which there is room is loaded or woken, or room is made for it.
        3. What has been blocked for too long gets its turn before all that came later.

        Moves on one device come one after another. What could begin but for one under way keeps its devices
        from all that came later.
        """
        if (ending := self._next_ending()) is not None:
            return ending
        if self.ledger.is_full_of_moves:
            return None
        going = {entry.key for entry in self._leaving}
        loaded = [entry.snapshot() for entry in self.within(State.READY, State.LEAVING)]
        reserved: set[int] = set()
        for entry in self._queue:
            if entry.key in going or self.ledger.is_moving(entry.key):  # Its engine of before has to be gone.
                continue
            sleeper = self.sleepers.get(entry.key)
            if sleeper is not None and not sleeper.serves(entry.model):
                return Evict([sleeper])
            decision = self.ledger.decide(entry.model, loaded, reserved)
            if isinstance(decision, Later):
                reserved |= decision.devices
            elif not (isinstance(decision, Wait) and entry.users and not self._is_late(entry, now)):
                return self._step(entry, decision)
        return None

    def _step(self, entry: Entry, decision: Decision | Awaken) -> Step | None:
        """What is to be done for an entry in the queue."""
        match decision:
            case Place():
                self._queue.remove(entry)
                entry.state = State.LOADING
                return Load(entry)
            case Awaken():
                self._queue.remove(entry)
                entry.state = State.LOADING
                return Wake(entry, self.sleepers.take(entry.key))
            case Impossible(reason, is_too_large):
                fault = "is too large" if is_too_large else "cannot be loaded"
                return Refuse(entry, f"model {entry.model.name} {fault}: {reason}")
            case _ if not entry.users:
                return Drop(entry)
            case MakeRoom(keys, asleep):
                return Evict([self._with_engine(key) for key in keys], frozenset(asleep))
            case Wait(keys):
                in_use = [each for each in self.within(State.READY) if each.key in keys and each.users]
                return Leave(in_use) if in_use else None

    def _next_ending(self) -> Close | Sleep | None:
        """The next engines to be closed, all at once that share devices; or one to be put to sleep."""
        able = [entry for entry in self._doomed if self.ledger.may_begin(entry.model)]
        if able:
            closing = [able[0]]
            for each in able[1:]:
                if any(self.ledger.share(each.model, other.model) for other in closing):
                    closing.append(each)
            self._doomed = [entry for entry in self._doomed if entry not in closing]
            self.ledger.begin(entry.model for entry in closing)
            return Close(closing)
        if (entry := self.sleepers.next_sleep()) is not None:
            self.ledger.begin([entry.model])
            return Sleep(entry)
        return None

    def _with_engine(self, key: str) -> Entry:
        return self.sleepers.get(key) or self._by_key[key]

    def _is_late(self, entry: Entry, now: float) -> bool:
        """Whether a blocked entry has waited for long enough."""
        if entry.blocked_since is None:
            entry.blocked_since = now
        return now - entry.blocked_since >= self._patience_s

    def next_look_s(self, now: float) -> float | None:
        """After how long a blocked entry has waited for long enough; None where none will have."""
        since = [entry.blocked_since for entry in self._queue if entry.blocked_since is not None]
        left_s = min(since, default=math.inf) + self._patience_s - now
        return max(0.0, left_s) if math.isfinite(left_s) and left_s > 0 else None

    def _remove(self, entry: Entry) -> None:
        entry.stop_timer()
        entry.state = State.GONE
        del self._by_key[entry.key]

    def _whose(self, model: Model) -> ModelName | None:
        """Under what an entry's keep-alive by this model is kept."""
        return model.name if self._keyed else None
