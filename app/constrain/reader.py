"""Owns the reading of raw schemas: references, the keywords that combine schemas, and unions of shapes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from app.constrain.form import check_form
from app.constrain.keywords import KEYWORDS, Schema, exact, typed
from app.constrain.shape import (
    Array,
    Both,
    Branch,
    Number,
    Object,
    Place,
    Plain,
    Shape,
    Stress,
    Text,
    Value,
    join,
    meet,
    refusal,
    said,
    type_of,
    unsupported,
    value_of,
)
from app.constrain.work import Work
from app.core.request import Json

NEVER: Place = ("#never",)
"""A place that holds the schema `false`."""

_REFUSED = frozenset({"$dynamicRef", "$recursiveRef"})
_COMBINING = frozenset({"$ref", "allOf", "anyOf", "oneOf", "enum", "const", "not", "if", "then", "else"})
_ASSERTING = _COMBINING.union({"type", "nullable"}, _REFUSED, *KEYWORDS.values())
_MAX_BRANCHES = 128
UNIONS = ("anyOf", "oneOf")
"""`oneOf` is read as `anyOf`: it is written for a choice, also where two of its schemas share values."""

_MAX_READING = 40


class Reader:
    def __init__(self, root: Schema, work: Work) -> None:
        self._root = root
        self.work = work
        self._known: dict[tuple[Place, bool], list[Branch]] = {}
        self._shapes: dict[tuple[Both, bool], list[Shape]] = {}
        self._reading: set[tuple[Place, bool]] = set()

    def at(self, place: Place) -> Schema | bool:
        if place == NEVER:
            return False
        found: Json = self._root
        for key in place:
            found = found[key]
        return found

    def follow(self, both: Both) -> tuple[Both, bool]:
        """The schemas that say something, references resolved, and whether there were references."""
        found: list[Place] = []
        referred = False
        queue, seen = list(reversed(both)), set[Place]()
        while queue:
            self.work.spend()
            place = queue.pop()
            schema = self.at(place)
            asserting = asserted(schema)
            if asserting == frozenset({"$ref"}) and not isinstance(schema, bool):
                if place in seen:
                    raise unsupported(place, "$ref", "goes round in a circle")
                seen.add(place)
                referred = True
                queue.append(self.target(schema, place))
            elif asserting == frozenset({"allOf"}) and not isinstance(schema, bool):
                queue.extend(reversed([(*place, "allOf", at) for at in range(len(schema["allOf"]))]))
            elif schema is False or asserting:
                found.append(place)
        return join(tuple(found)), referred

    def target(self, schema: Schema, place: Place) -> Place:
        reference: str = schema["$ref"]
        for length in range(1, len(place)):
            around: Json = self.at(place[:length])
            if isinstance(around, dict) and isinstance(around.get("$id"), str):
                raise unsupported(place, "$ref", 'under a "$id" of its own is not supported')
        if reference.startswith(self._root.get("$id", "#")):
            reference = reference.removeprefix(self._root.get("$id", "").rstrip("#"))
        if reference not in ("#", "") and not reference.startswith("#/"):
            raise unsupported(
                place, "$ref", f"to {reference!r} is not supported: only references within the schema are"
            )
        found: list[str | int] = []
        current: Any = self._root
        for part in reference[2:].split("/") if reference[2:] else ():
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            try:
                found.append(int(key) if isinstance(current, list) else key)
                current = _step(current, found)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise unsupported(place, "$ref", f"to {reference!r} finds nothing there") from error
        if not isinstance(current, dict | bool):
            raise unsupported(place, "$ref", f"to {reference!r} finds no schema there")
        if len(found) != 2 or found[0] not in ("$defs", "definitions"):
            check_form(current, tuple(found))
        return tuple(found)

    def shapes(self, both: Both, loose: bool = False) -> list[Shape]:
        """The union of what satisfies all of `both`. `loose` may hold more than that, never less."""
        key = both, loose
        if key not in self._shapes:
            branches = typed({}, (), self.work)
            for place in both:
                branches = self._meet(branches, self._branches(place, loose), place)
            self._shapes[key] = [branch.shape for branch in (branches if loose else _stressed(branches))]
        return self._shapes[key]

    def _branches(self, place: Place, loose: bool) -> list[Branch]:
        key = place, loose
        if key not in self._known:
            if key in self._reading:
                raise refusal(place, "the schema includes itself without anything in between")
            if len(self._reading) == _MAX_READING:
                raise refusal(place, f"schemas combine more than {_MAX_READING} levels deep")
            self._reading.add(key)
            self._known[key] = self._read(place, loose)
            self._reading.discard(key)
        return self._known[key]

    def _read(self, place: Place, loose: bool) -> list[Branch]:
        schema = self.at(place)
        if isinstance(schema, bool):
            return typed({}, place, self.work) if schema else []
        _refuse_unreadable(schema, place)
        branches = typed(schema, place, self.work)
        for union in self._unions(schema, place, loose):
            branches = self._meet(branches, union, place)
        if not loose:
            branches = [replace(branch, shape=_evaluated(branch.shape, schema, place)) for branch in branches]
        if "enum" in schema:
            branches = self._meet(branches, _values(schema["enum"], (*place, "enum")), place)
        if "const" in schema:
            branches = self._meet(branches, _values([schema["const"]], place), place)
        if "not" in schema and not loose:
            branches = self._not(branches, place)
        if schema.get("nullable") is True and "type" in schema:
            branches = [*branches, Branch(Plain("null"))]
        return branches

    def _unions(self, schema: Schema, place: Place, loose: bool) -> Iterable[list[Branch]]:
        if "$ref" in schema:
            yield self._branches(self.target(schema, place), loose)
        for at in range(len(schema.get("allOf", ()))):
            yield self._branches((*place, "allOf", at), loose)
        for keyword in UNIONS:
            if keyword not in schema:
                continue
            members = self._members(schema, place, keyword, loose)
            tags = self._tags(members) if keyword == "oneOf" else []
            yield [_tagged(branch, tags) for member in members for branch in member]

    def _members(self, schema: Schema, place: Place, keyword: str, loose: bool) -> list[list[Branch]]:
        return [self._branches((*place, keyword, at), loose) for at in range(len(schema[keyword]))]

    def has_tags(self, place: Place) -> bool:
        """Whether the `oneOf` at `place` is told apart by properties."""
        schema = self.at(place)
        return not isinstance(schema, bool) and bool(self._tags(self._members(schema, place, "oneOf", False)))

    def _tags(self, members: Sequence[Sequence[Branch]]) -> list[str]:
        """The properties that tell the schemas of a `oneOf` apart; by default or not, they are required."""
        shapes = [branch.shape for member in members for branch in member]
        objects = [shape for shape in shapes if isinstance(shape, Object)]
        if len(objects) < 2:
            return []
        return [name for name in objects[0].properties if self._tells_apart(name, objects)]

    def _tells_apart(self, name: str, objects: Sequence[Object]) -> bool:
        seen: set[str] = set()
        for shape in objects:
            self.work.spend()
            texts = [text for place in shape.properties.get(name, ()) for text in _listed(self.at(place))]
            if not texts or not seen.isdisjoint(texts):
                return False
            seen.update(texts)
        return True

    def _meet(self, ones: Sequence[Branch], others: Sequence[Branch], place: Place) -> list[Branch]:
        met: list[Branch] = []
        values: set[Value] = set()
        for one in ones:
            for other in others:
                self.work.spend()
                shape = self._meet_shapes(one.shape, other.shape)
                if shape is None or (isinstance(shape, Value) and shape in values):
                    continue
                if isinstance(shape, Value):
                    values.add(shape)
                met.append(Branch(shape, one.stress & other.stress))
                if len(met) - len(values) > _MAX_BRANCHES:
                    raise refusal(place, f"the alternatives multiply to more than {_MAX_BRANCHES}")
        return met

    def said(self, shape: Object, name: str) -> Both | None:
        return said(shape, name, self.work.matches)

    def _meet_shapes(self, one: Shape, other: Shape) -> Shape | None:
        if isinstance(one, Value) and isinstance(other, Value):
            return one if one == other else None
        if isinstance(one, Value):
            return one if self.admits(other, one.value) else None
        if isinstance(other, Value):
            return other if self.admits(one, other.value) else None
        return meet(one, other, self.work.matches)

    def _not(self, branches: list[Branch], place: Place) -> list[Branch]:
        """Exact where there are only single values to choose from, or where `not` allows nothing at all."""
        inner = (*place, "not")
        if not self.follow((inner,))[0]:
            return []
        if self.at(inner) is False:
            return branches
        excluded = self.at(inner)
        if asserted(excluded) == frozenset({"type"}) and isinstance(excluded, dict):
            names = [excluded["type"]] if isinstance(excluded["type"], str) else excluded["type"]
            if "integer" not in names:
                return [branch for branch in branches if type_of(branch.shape) not in names]
        if not all(isinstance(branch.shape, Value) for branch in branches):
            raise unsupported(place, "not")
        return [
            branch
            for branch in branches
            if isinstance(branch.shape, Value)
            and not self.admits_both((inner,), branch.shape.value, loose=True)
        ]

    def admits_both(self, both: Both, value: Json, loose: bool = False) -> bool:
        return all(
            any(self.admits(branch.shape, value, loose) for branch in self._branches(place, loose))
            for place in both
        )

    def admits(self, shape: Shape, value: Json, loose: bool = False) -> bool:
        self.work.spend()
        match shape, value:
            case Value(key), _:
                return key == value_of(value).key
            case Plain(name), _:
                return isinstance(value, bool) if name == "boolean" else value is None
            case Number(), int() | float() if not isinstance(value, bool):
                return _admits_number(shape, exact(value))
            case Text(), str():
                fits = shape.low <= len(value) and (shape.high is None or len(value) <= shape.high)
                return fits and all(self.work.matches(source, value) for source in shape.patterns)
            case Array(), list():
                return self._admits_array(shape, value, loose)
            case Object(), dict():
                return self._admits_object(shape, value, loose)
            case _:
                return False

    def _admits_array(self, shape: Array, value: Sequence[Json], loose: bool) -> bool:
        if len(value) < shape.low or (shape.high is not None and len(value) > shape.high):
            return False
        if shape.unique and len({value_of(item).key for item in value}) < len(value):
            return False
        children = [*shape.prefix, *[shape.rest or ()] * (len(value) - len(shape.prefix))]
        return all(self.admits_both(child, item, loose) for child, item in zip(children, value, strict=False))

    def _admits_object(self, shape: Object, value: Schema, loose: bool) -> bool:
        if len(value) < shape.low or (shape.high is not None and len(value) > shape.high):
            return False
        if not value.keys() >= set(shape.required):
            return False
        return all(
            self.admits_both(shape.names, name, loose)
            and self.admits_both(self.said(shape, name) or (), item, loose)
            for name, item in value.items()
        )


def _tagged(branch: Branch, tags: Sequence[str]) -> Branch:
    if not tags or not isinstance(branch.shape, Object):
        return branch
    required = tuple(dict.fromkeys([*branch.shape.required, *tags]))
    return replace(branch, shape=replace(branch.shape, required=required))


def _listed(schema: Schema | bool) -> list[str]:
    if isinstance(schema, bool):
        return []
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return [value for value in values if isinstance(value, str)]


def _refuse_unreadable(schema: Schema, place: Place) -> None:
    for keyword in _REFUSED:
        if keyword in schema:
            raise unsupported(place, keyword)
    if "if" in schema and ("then" in schema or "else" in schema):
        raise unsupported(place, "if")


def _step(around: Any, path: list[str | int]) -> Any:
    return around[path[len(path) - 1]]


def asserted(schema: Schema | bool) -> frozenset[str]:
    """The keywords of the schema that can refuse a value."""
    return frozenset() if isinstance(schema, bool) else _ASSERTING.intersection(schema)


def _stressed(branches: list[Branch]) -> list[Branch]:
    return [branch for branch in branches if branch.stress is not Stress.WEAK] or branches


def _values(values: Sequence[Json], place: Place) -> list[Branch]:
    if not values:
        raise refusal(place, "there is no value to choose")
    return [Branch(value_of(value)) for value in values]


def _evaluated(shape: Shape, schema: Schema, place: Place) -> Shape:
    """What `unevaluated...` adds: it speaks of what the schema and all it combines left unsaid."""
    match shape:
        case Value(value=[_, *_]) if "unevaluatedItems" in schema:
            raise unsupported(place, "unevaluatedItems", "is not supported beside arrays of an enum")
        case Value(value={}) if "unevaluatedProperties" in schema and shape.value:
            raise unsupported(place, "unevaluatedProperties", "is not supported beside objects of an enum")
        case Object(rest=None) if "unevaluatedProperties" in schema:
            return replace(shape, rest=((*place, "unevaluatedProperties"),))
        case Array(rest=None) if "unevaluatedItems" in schema:
            return replace(shape, rest=((*place, "unevaluatedItems"),))
        case _:
            return shape


def _admits_number(shape: Number, value: Fraction) -> bool:
    if (shape.integer and value.denominator != 1) or (shape.step and (value / shape.step).denominator != 1):
        return False
    above = shape.low is None or value > shape.low[0] or (value == shape.low[0] and not shape.low[1])
    below = shape.high is None or value < shape.high[0] or (value == shape.high[0] and not shape.high[1])
    return above and below
