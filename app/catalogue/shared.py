"""Values that are made of a blob's content once for all models that have it."""

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeAlias, TypeVar
from weakref import WeakValueDictionary, finalize

from app.core.errors import BadManifest

_T = TypeVar("_T")

Held: TypeAlias = list[object]
"""What keeps the values that were taken: as long as it lives, so do they."""


class Shared:
    """Values by key, each there as long as somebody holds it, and the `recent` last ones besides.

    All together take at most `most_bytes` by `weigh`, 0 being no limit. It may be used from any thread. What
    two need at the same moment may be made twice; one of them stays.
    """

    def __init__(
        self, recent: int, *, most_bytes: int = 0, weigh: Callable[[Any], int] = lambda _value: 0
    ) -> None:
        self._items: WeakValueDictionary[Hashable, _Item[Any]] = WeakValueDictionary()
        self._recent: deque[_Item[Any]] = deque(maxlen=recent)
        self._most_bytes, self._weigh = most_bytes, weigh
        self._bytes = 0
        self._gone: deque[int] = deque()  # An item may go at any moment, in any thread: also under the lock.
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], _T], held: Held, *, least_bytes: int = 0) -> _T:
        """The value of `key`, by `make` where there is none; raises what `make` does.

        Raises:
            BadManifest: where there is no room for it; before it is made where it weighs `least_bytes`.
        """
        with self._lock:
            item = self._items.get(key)
            if item is None:
                self._check_room(least_bytes)
        if item is None:
            made = _Item(make())
            size = self._weigh(made.value)
            with self._lock:
                item = self._items.get(key)
                if item is None:
                    self._check_room(size)
                    item = self._items[key] = made
                    self._bytes += size
                    finalize(made, self._gone.append, size).atexit = False
                self._recent.append(item)
        held.append(item)
        return item.value

    def _check_room(self, size: int) -> None:
        if not self._has_room(size):
            self._recent.clear()
            if not self._has_room(size):
                raise BadManifest(
                    f"the texts of all models together take more than {self._most_bytes} bytes of memory"
                )

    def _has_room(self, size: int) -> bool:
        while self._gone:
            self._bytes -= self._gone.popleft()
        return not 0 < self._most_bytes < self._bytes + size


class _Item(Generic[_T]):
    __slots__ = ("__weakref__", "value")

    def __init__(self, value: _T) -> None:
        self.value = value
