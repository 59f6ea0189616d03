"""Which models are down, and when the next attempt to load each is due.

A model is down while its first load, or the load after its engine's death, is not done. One that was never
asked for, or was unloaded for lack of use, is not: the next request loads it.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from app.core.model import Model
from app.runtime import policy

Trouble: TypeAlias = Literal["loading", "restarting", "failed to load"]


@dataclass(frozen=True, slots=True)
class Down:
    """A model that cannot answer yet, and what is the matter."""

    model: Model
    trouble: Trouble


class Recovery:
    """The books of failures, one account per engine. `limit` failures in a row are a crash loop, 0: never.

    For an engine that spans nodes the first is one: its ranks on other nodes belong to the world that has
    ended, and only a new start of all nodes makes another.
    """

    def __init__(
        self,
        *,
        limit: int = 5,
        window_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self._chance = chance
        self._down: dict[str, Down] = {}
        self._first: set[str] = set()
        self._failures: dict[str, int] = {}
        self._up_since: dict[str, float] = {}

    @property
    def down(self) -> list[Down]:
        return list(self._down.values())

    @property
    def started(self) -> bool:
        """Whether every first load that was expected is done."""
        return not self._first

    def expect(self, model: Model) -> None:
        """A first load begins that no request has asked for."""
        self._first.add(model.engine_key)
        self._down[model.engine_key] = Down(model, "loading")

    def is_again(self, model: Model) -> bool:
        """Whether a load of the model follows a failure."""
        down = self._down.get(model.engine_key)
        return down is not None and down.trouble != "loading"

    def loaded(self, model: Model) -> None:
        self._up_since[model.engine_key] = self._clock()
        self._first.discard(model.engine_key)
        self._down.pop(model.engine_key, None)

    def failed(self, model: Model, trouble: Trouble) -> float | None:
        """Note a death or a failed load. Returns the seconds until the next attempt; None: it is hopeless."""
        key, now = model.engine_key, self._clock()
        ran_s = now - self._up_since.pop(key, now)
        self._failures[key] = policy.failures_in_a_row(self._failures.get(key, 0), ran_s, self._window_s)
        self._down[key] = Down(model, trouble)
        limit = 1 if model.nodes > 1 else self._limit
        return policy.restart_delay_s(self._failures[key], limit, self._chance())

    def forget(self, model: Model) -> None:
        """Nobody wants the model any more; the next request for it loads it."""
        self._first.discard(model.engine_key)
        self._down.pop(model.engine_key, None)
