"""Values that are made of a blob's content once for all models that have it."""

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeAlias, TypeVar
from weakref import WeakValueDictionary

_T = TypeVar("_T")

Held: TypeAlias = list[object]
"""What keeps the values that were taken: as long as it lives, so do they."""


class Shared:
    """Values by key, each there as long as somebody holds it, and the `recent` last ones besides.

    It may be used from any thread. What two need at the same moment may be made twice; one of them stays.
    """

    def __init__(self, recent: int) -> None:
        self._items: WeakValueDictionary[Hashable, _Item[Any]] = WeakValueDictionary()
        self._recent: deque[_Item[Any]] = deque(maxlen=recent)
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], _T], held: Held) -> _T:
        """The value of `key`, by `make` where there is none; raises what `make` does."""
        with self._lock:
            item = self._items.get(key)
        if item is None:
            made = _Item(make())
            with self._lock:
                item = self._items.setdefault(key, made)
                self._recent.append(item)
        held.append(item)
        return item.value


class _Item(Generic[_T]):
    __slots__ = ("__weakref__", "value")

    def __init__(self, value: _T) -> None:
        self.value = value
