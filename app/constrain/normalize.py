"""Owns the reading of raw schemas: references, the keywords that combine schemas, and unions of shapes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from app.constrain.budget import Budget
from app.constrain.keywords import KEYWORDS, Schema, exact, typed
from app.constrain.metaschema import check_metaschema
from app.constrain.types import (
    AllOf,
    Alternative,
    Array,
    JsonPointer,
    Number,
    Object,
    Plain,
    Shape,
    Specificity,
    Text,
    Value,
    intersect,
    join,
    property_schema,
    refusal,
    type_of,
    unsupported,
    value_of,
)
from app.core.request import Json

NEVER: JsonPointer = ("#never",)
"""A place that holds the schema `false`."""

_REFUSED = frozenset({"$dynamicRef", "$recursiveRef"})
_COMBINING = frozenset({"$ref", "allOf", "anyOf", "oneOf", "enum", "const", "not", "if", "then", "else"})
_ASSERTING = _COMBINING.union({"type", "nullable"}, _REFUSED, *KEYWORDS.values())
_MAX_ALTERNATIVES = 128
UNIONS = ("anyOf", "oneOf")
"""`oneOf` is read as `anyOf`: it is written for a choice, also where two of its schemas share values."""

_MAX_READING = 40


class Normalizer:
    def __init__(self, root: Schema, budget: Budget) -> None:
        self._root = root
        self.budget = budget
        self._known: dict[tuple[JsonPointer, bool], list[Alternative]] = {}
        self._shapes: dict[tuple[AllOf, bool], list[Shape]] = {}
        self._reading: set[tuple[JsonPointer, bool]] = set()

    def at(self, place: JsonPointer) -> Schema | bool:
        if place == NEVER:
            return False
        found: Json = self._root
        for key in place:
            found = found[key]
        return found

    def follow(self, all_of: AllOf) -> tuple[AllOf, bool]:
        """The schemas that say something, references resolved, and whether there were references."""
        found: list[JsonPointer] = []
        referred = False
        queue, seen = list(reversed(all_of)), set[JsonPointer]()
        while queue:
            self.budget.spend()
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

    def target(self, schema: Schema, place: JsonPointer) -> JsonPointer:
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
            check_metaschema(current, tuple(found), self.budget)
        return tuple(found)

    def shapes(self, all_of: AllOf, loose: bool = False) -> list[Shape]:
        """The union of what satisfies all of `all_of`. `loose` may hold more than that, never less."""
        key = all_of, loose
        if key not in self._shapes:
            alternatives = typed({}, (), self.budget)
            for place in all_of:
                alternatives = self._intersect(alternatives, self._alternatives(place, loose), place)
            self._shapes[key] = [
                alternative.shape for alternative in (alternatives if loose else _stated(alternatives))
            ]
        return self._shapes[key]

    def _alternatives(self, place: JsonPointer, loose: bool) -> list[Alternative]:
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

    def _read(self, place: JsonPointer, loose: bool) -> list[Alternative]:
        schema = self.at(place)
        if isinstance(schema, bool):
            return typed({}, place, self.budget) if schema else []
        _refuse_unreadable(schema, place)
        alternatives = typed(schema, place, self.budget)
        for union in self._unions(schema, place, loose):
            alternatives = self._intersect(alternatives, union, place)
        if not loose:
            alternatives = [
                replace(alternative, shape=_evaluated(alternative.shape, schema, place))
                for alternative in alternatives
            ]
        if "enum" in schema:
            alternatives = self._intersect(alternatives, _values(schema["enum"], (*place, "enum")), place)
        if "const" in schema:
            alternatives = self._intersect(alternatives, _values([schema["const"]], place), place)
        if "not" in schema and not loose:
            alternatives = self._not(alternatives, place)
        if schema.get("nullable") is True and "type" in schema:
            alternatives = [*alternatives, Alternative(Plain("null"))]
        return alternatives

    def _unions(self, schema: Schema, place: JsonPointer, loose: bool) -> Iterable[list[Alternative]]:
        if "$ref" in schema:
            yield self._alternatives(self.target(schema, place), loose)
        for at in range(len(schema.get("allOf", ()))):
            yield self._alternatives((*place, "allOf", at), loose)
        for keyword in UNIONS:
            if keyword not in schema:
                continue
            members = self._members(schema, place, keyword, loose)
            tags = self._tags(members) if keyword == "oneOf" else []
            yield [_tagged(alternative, tags) for member in members for alternative in member]

    def _members(
        self, schema: Schema, place: JsonPointer, keyword: str, loose: bool
    ) -> list[list[Alternative]]:
        return [self._alternatives((*place, keyword, at), loose) for at in range(len(schema[keyword]))]

    def has_tags(self, place: JsonPointer) -> bool:
        """Whether the `oneOf` at `place` is told apart by properties."""
        schema = self.at(place)
        return not isinstance(schema, bool) and bool(self._tags(self._members(schema, place, "oneOf", False)))

    def _tags(self, members: Sequence[Sequence[Alternative]]) -> list[str]:
        """The properties that tell the schemas of a `oneOf` apart; by default or not, they are required."""
        shapes = [alternative.shape for member in members for alternative in member]
        objects = [shape for shape in shapes if isinstance(shape, Object)]
        if len(objects) < 2:
            return []
        return [name for name in objects[0].properties if self._tells_apart(name, objects)]

    def _tells_apart(self, name: str, objects: Sequence[Object]) -> bool:
        seen: set[str] = set()
        for shape in objects:
            self.budget.spend()
            texts = [text for place in shape.properties.get(name, ()) for text in _listed(self.at(place))]
            if not texts or not seen.isdisjoint(texts):
                return False
            seen.update(texts)
        return True

    def _intersect(
        self, ones: Sequence[Alternative], others: Sequence[Alternative], place: JsonPointer
    ) -> list[Alternative]:
        common: list[Alternative] = []
        values: set[Value] = set()
        for one in ones:
            for other in others:
                self.budget.spend()
                shape = self._meet_shapes(one.shape, other.shape)
                if shape is None or (isinstance(shape, Value) and shape in values):
                    continue
                if isinstance(shape, Value):
                    values.add(shape)
                common.append(Alternative(shape, one.specificity & other.specificity))
                if len(common) - len(values) > _MAX_ALTERNATIVES:
                    raise refusal(place, f"the alternatives multiply to more than {_MAX_ALTERNATIVES}")
        return common

    def property_schema(self, shape: Object, name: str) -> AllOf | None:
        return property_schema(shape, name, self.budget.matches)

    def _meet_shapes(self, one: Shape, other: Shape) -> Shape | None:
        if isinstance(one, Value) and isinstance(other, Value):
            return one if one == other else None
        if isinstance(one, Value):
            return one if self.admits(other, one.value) else None
        if isinstance(other, Value):
            return other if self.admits(one, other.value) else None
        return intersect(one, other, self.budget.matches)

    def _not(self, alternatives: list[Alternative], place: JsonPointer) -> list[Alternative]:
        """Exact where there are only single values to choose from, or where `not` allows nothing at all."""
        inner = (*place, "not")
        if not self.follow((inner,))[0]:
            return []
        if self.at(inner) is False:
            return alternatives
        excluded = self.at(inner)
        if asserted(excluded) == frozenset({"type"}) and isinstance(excluded, dict):
            names = [excluded["type"]] if isinstance(excluded["type"], str) else excluded["type"]
            if "integer" not in names:
                return [
                    alternative for alternative in alternatives if type_of(alternative.shape) not in names
                ]
        if not all(isinstance(alternative.shape, Value) for alternative in alternatives):
            raise unsupported(place, "not")
        return [
            alternative
            for alternative in alternatives
            if isinstance(alternative.shape, Value)
            and not self.admits_both((inner,), alternative.shape.value, loose=True)
        ]

    def admits_both(self, all_of: AllOf, value: Json, loose: bool = False) -> bool:
        return all(
            any(
                self.admits(alternative.shape, value, loose)
                for alternative in self._alternatives(place, loose)
            )
            for place in all_of
        )

    def admits(self, shape: Shape, value: Json, loose: bool = False) -> bool:
        self.budget.spend()
        match shape, value:
            case Value(key), _:
                return key == value_of(value).key
            case Plain(name), _:
                return isinstance(value, bool) if name == "boolean" else value is None
            case Number(), int() | float() if not isinstance(value, bool):
                return _admits_number(shape, exact(value))
            case Text(), str():
                fits = shape.low <= len(value) and (shape.high is None or len(value) <= shape.high)
                return fits and all(self.budget.matches(source, value) for source in shape.patterns)
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
            and self.admits_both(self.property_schema(shape, name) or (), item, loose)
            for name, item in value.items()
        )


def _tagged(alternative: Alternative, tags: Sequence[str]) -> Alternative:
    if not tags or not isinstance(alternative.shape, Object):
        return alternative
    required = tuple(dict.fromkeys([*alternative.shape.required, *tags]))
    return replace(alternative, shape=replace(alternative.shape, required=required))


def _listed(schema: Schema | bool) -> list[str]:
    if isinstance(schema, bool):
        return []
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return [value for value in values if isinstance(value, str)]


def _refuse_unreadable(schema: Schema, place: JsonPointer) -> None:
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


def _stated(alternatives: list[Alternative]) -> list[Alternative]:
    return [
        alternative for alternative in alternatives if alternative.specificity is not Specificity.IMPLIED
    ] or alternatives


def _values(values: Sequence[Json], place: JsonPointer) -> list[Alternative]:
    if not values:
        raise refusal(place, "there is no value to choose")
    return [Alternative(value_of(value)) for value in values]


def _evaluated(shape: Shape, schema: Schema, place: JsonPointer) -> Shape:
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
