"""Owns what a schema amounts to: a union of shapes of one JSON type each, and how two shapes meet.

A child schema is not looked into here. It is a `Both`: the places of the raw schemas that must all hold.
"""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, TypeAlias

from app.core.request import Json

Place: TypeAlias = tuple[str | int, ...]
"""Where a schema is, as keys from the root."""

Both: TypeAlias = tuple[Place, ...]
"""Schemas that must all hold; none of them means any value."""

Bound: TypeAlias = tuple[Fraction, bool] | None
"""A limit and whether it is itself excluded; None is no limit."""

JsonType: TypeAlias = Literal["null", "boolean", "number", "string", "array", "object"]


@dataclass(frozen=True, slots=True)
class Value:
    """One value, kept by its canonical text so that 1 is 1.0 and true is not 1."""

    key: str
    value: Json = field(compare=False)


@dataclass(frozen=True, slots=True)
class Plain:
    """Null or any boolean."""

    type: Literal["null", "boolean"]


@dataclass(frozen=True, slots=True)
class Number:
    integer: bool = False
    low: Bound = None
    high: Bound = None
    step: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Text:
    low: int = 0
    high: int | None = None
    patterns: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Array:
    """`rest` None: the schema does not say what follows the prefix."""

    prefix: tuple[Both, ...] = ()
    rest: Both | None = None
    low: int = 0
    high: int | None = None
    unique: bool = False


@dataclass(frozen=True, slots=True)
class Object:
    """`rest` None: the schema does not say what other keys hold. `patterns` maps sources to children."""

    properties: dict[str, Both] = field(default_factory=dict[str, Both])
    required: tuple[str, ...] = ()
    patterns: dict[str, Both] = field(default_factory=dict[str, Both])
    rest: Both | None = None
    names: Both = ()
    low: int = 0
    high: int | None = None

    def child(self, name: str, matching: Both) -> Both:
        """What the value under `name` must satisfy, given what the patterns that match it say."""
        if name in self.properties:
            return join(self.properties[name], matching)
        return matching if self.matches_any(matching) else self.rest or ()

    def matches_any(self, matching: Both) -> bool:
        return bool(matching)


Shape: TypeAlias = Value | Plain | Number | Text | Array | Object
