"""Engines that are asleep, or are to be put to sleep: which there are, and which of them goes for another."""

from collections.abc import Iterator, Set

from app.core.model import Adapter, Model
from app.runtime.entry import Entry, State
from app.runtime.ledger import Ledger


class Sleepers:
    """Entries by engine key. No request has one: the next for its engine makes a new entry."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._by_key: dict[str, Entry] = {}
        self._begun: set[Entry] = set()
        self._forgotten: dict[str, list[Adapter]] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._by_key.values()))  # also read by the thread of metrics

    def get(self, key: str) -> Entry | None:
        """The entry of an engine that is asleep, or is to be."""
        return self._by_key.get(key)

    def beds(self, entry: Entry, wanted: Set[str]) -> list[Entry] | None:
        """Which are to be closed, but for those `wanted`, so that the host has room for this one to sleep;
        None: it cannot be put to sleep."""
        keys = self._ledger.beds(entry.model, wanted)
        return None if keys is None else [self._by_key[key] for key in keys]

    def add(self, entry: Entry) -> None:
        """One is to be put to sleep."""
        entry.state = State.DOZING
        self._by_key[entry.key] = entry
        self._ledger.tires(entry.model, entry.idle_since or 0.0)

    def next_sleep(self) -> Entry | None:
        """The next that can be put to sleep now."""
        if not self._ledger.has_beds:
            return None
        waiting = (each for each in self if each.state is State.DOZING and each not in self._begun)
        entry = next((each for each in waiting if self._ledger.may_begin(each.model)), None)
        if entry is not None:
            self._begun.add(entry)
        return entry

    def slept(self, entry: Entry) -> bool:
        """One has been put to sleep; whether it is to stay so."""
        if entry.state is not State.DOZING:  # it was to be closed meanwhile
            return False
        self._begun.discard(entry)
        entry.state = State.ASLEEP
        return True

    def take(self, key: str) -> Entry:
        """One is woken, and is no sleeper any more."""
        entry = self._by_key.pop(key)
        entry.state = State.GONE
        self._forgotten.setdefault(key, [])
        return entry

    def remove(self, entry: Entry) -> None:
        """One goes."""
        del self._by_key[entry.key]
        self._begun.discard(entry)
        self._forgotten.pop(entry.key, None)

    def forget(self, model: Model) -> None:
        """No model has this one's adapter any more: an engine asleep is told of it once it is awake."""
        key = model.engine_key
        if model.adapter is not None and (key in self._by_key or key in self._forgotten):
            self._forgotten.setdefault(key, []).append(model.adapter)

    def forgotten(self, key: str) -> list[Adapter]:
        """The adapters that an engine which has woken is to forget."""
        return self._forgotten.pop(key, [])
