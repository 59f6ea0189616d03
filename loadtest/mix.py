"""How often each kind of request is made, `chat=6,generate=2`, and how many users speak each API."""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from loadtest.apis import APIS
from loadtest.apis.base import KINDS, Api, Kind

_T = TypeVar("_T")
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


@dataclass(frozen=True, slots=True)
class Apis:
    """Weights by the name of an API, none of them zero."""

    weights: Mapping[str, float]

    @property
    def kinds(self) -> frozenset[Kind]:
        """Those that one of them has, at least."""
        return frozenset[Kind]().union(*(APIS[name].kinds for name in self.weights))

    def of_user(self, number: int) -> str:
        """The API of the user with that number, from 0 on: any first few of them have their shares."""
        given = dict.fromkeys(self.weights, 0)
        while True:
            name = min(given, key=lambda each: (given[each] + 0.5) / self.weights[each])
            if not number:
                return name
            given[name] += 1
            number -= 1

    def first_with(self, kind: Kind) -> Api:
        return next(api for api in map(APIS.__getitem__, self.weights) if kind in api.kinds)

    def mix_of(self, name: str, mix: Mix) -> Mix:
        """What of `mix` an API has."""
        return mix.without(set(KINDS) - APIS[name].kinds)

    def check(self, mix: Mix) -> None:
        """`ValueError` unless each API has some of the kinds, and each kind some API."""
        for name in self.weights:
            if not self.mix_of(name, mix).weights:
                raise ValueError(f"{name} has none of {', '.join(mix.weights)}")
        if lost := set(mix.weights) - self.kinds:
            raise ValueError(f"{', '.join(sorted(lost))}: not in the API of {', '.join(self.weights)}")


def parse_mix(text: str) -> Mix:
    """`ValueError` for what is no mix."""
    return Mix(_weights(text, _KINDS, "mix"))


def parse_apis(text: str) -> Apis:
    """`ValueError` for what are no APIs."""
    return Apis(_weights(text, {name: name for name in APIS}, "mix of APIs"))


def _weights(text: str, known: Mapping[str, _T], what: str) -> Mapping[_T, float]:
    weights: dict[_T, float] = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        one = known.get(name.strip())
        if one is None or one in weights:
            raise ValueError(f"a {what} has each of {', '.join(known)} once at most, not {name.strip()!r}")
        weights[one] = float(weight or 1)
        if not 0 <= weights[one] < float("inf"):
            raise ValueError(f"the weight of {one} must not be {weight}")
    found = {one: weight for one, weight in weights.items() if weight}
    if not found:
        raise ValueError(f"a {what} needs a weight above 0")
    return found
