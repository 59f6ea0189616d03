"""How often each kind of request is made: `chat=6,generate=2`."""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate

from loadtest.apis.base import KINDS, Kind

_KINDS: Mapping[str, Kind] = {kind: kind for kind in KINDS}
USUAL = "chat=6,generate=2,schema=1,tools=1,embed=1"
NEEDS: Mapping[Kind, str] = {"embed": "embedding", "tools": "tools"}
"""What a model must be able to do, as Ollama's `show` names it, besides `completion`."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Weights by kind of request, none of them zero."""

    weights: Mapping[Kind, float]

    def draw(self, dice: random.Random) -> Kind:
        return dice.choices(list(self.weights), cum_weights=list(accumulate(self.weights.values())))[0]

    def without(self, kinds: Collection[Kind]) -> "Mix":
        return Mix({kind: weight for kind, weight in self.weights.items() if kind not in kinds})


def parse_mix(text: str) -> Mix:
    """`ValueError` for what is no mix."""
    weights: dict[Kind, float] = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        kind = _KINDS.get(name.strip())
        if kind is None or kind in weights:
            raise ValueError(f"a mix has each of {', '.join(KINDS)} once at most, not {name.strip()!r}")
        weights[kind] = float(weight or 1)
        if not 0 <= weights[kind] < float("inf"):
            raise ValueError(f"the weight of {kind} must not be {weight}")
    mix = Mix({kind: weight for kind, weight in weights.items() if weight})
    if not mix.weights:
        raise ValueError("a mix needs a weight above 0")
    return mix
