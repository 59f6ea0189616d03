"""Owns what the grammar is made of: unions of shapes, written with a few keywords.

Narrower than JSON Schema on purpose, as Ollama's own grammars are: an object with declared properties
gets no others, and a tuple no further items, unless the schema asks for them; properties come in the
order of the schema.
"""

import re
from collections.abc import Iterable

from app.constrain.emit_object import MAX_OPTIONAL, ObjectEmitter
from app.constrain.emit_scalar import (
    Emitted,
    emit_number,
    emit_text,
    emit_value,
)
from app.constrain.normalize import UNIONS, Normalizer, asserted
from app.constrain.types import (
    AllOf,
    Array,
    JsonPointer,
    Number,
    Object,
    Plain,
    Shape,
    Text,
    Value,
    refusal,
    value_of,
)
from app.core.errors import InvalidRequest
from app.core.request import Json

ANY_OBJECT = {"type": "object", "additionalProperties": True}
ANY_ARRAY = {"type": "array", "items": {}}
_ANYTHING: list[Json] = [
    ANY_OBJECT,
    ANY_ARRAY,
    *({"type": name} for name in ("string", "number", "boolean", "null")),
]
_INLINE_DEPTH = 6
_MAX_SCHEMAS = 4000
_MAX_ITEMS = 100_000
"""No answer comes near it, so that as a limit it takes nothing away."""

_MAX_SET = 64


class Emitter:
    def __init__(self, normalizer: Normalizer) -> None:
        self._normalizer = normalizer
        self._names: dict[AllOf, str] = {}
        self._written = 0
        self._objects = ObjectEmitter(normalizer, self.schema, self._dead)
        self.dead_end: InvalidRequest | None = None

    def root(self) -> tuple[Emitted, dict[str, Emitted]]:
        """The whole schema and the definitions that it and they refer to."""
        body = self.schema(((),))
        definitions: dict[str, Emitted] = {}
        while len(definitions) < len(self._names):
            for places, name in list(self._names.items())[len(definitions) :]:
                definitions[name] = self._union(places, 0)
        return body, definitions

    def schema(self, all_of: AllOf, depth: int = 0) -> Emitted:
        """What satisfies all of `all_of`; False where it is plain that nothing does."""
        places, referred = self._normalizer.follow(all_of)
        if not places:
            return {}
        if not referred and depth < _INLINE_DEPTH:
            return self._union(places, depth)
        if places not in self._names:
            self._names[places] = self._name(places[0])
        return {"$ref": f"#/$defs/{self._names[places]}"}

    def _name(self, place: JsonPointer) -> str:
        last = next((key for key in reversed(place) if isinstance(key, str)), "root")
        stem = re.sub(r"[^A-Za-z]", "_", last)[:40]
        return f"{stem}_{len(self._names)}"

    def _union(self, places: AllOf, depth: int) -> Emitted:
        self._written += 1
        if self._written > _MAX_SCHEMAS:
            raise refusal((), f"the schema unfolds into more than {_MAX_SCHEMAS} schemas")
        options = self._options(places[0]) if len(places) == 1 else None
        if options is not None:
            written = [self.schema((option,), depth + 1) for option in options]
        else:
            shapes = self._normalizer.shapes(places)
            written = [self._shape(shape, places[0], depth) for shape in shapes]
        return _any_of(written)

    def _options(self, place: JsonPointer) -> list[JsonPointer] | None:
        """The schemas of a union that stands alone: their references stay references."""
        schema = self._normalizer.at(place)
        if isinstance(schema, bool):
            return None
        for keyword in UNIONS:
            tagged = keyword == "oneOf" and keyword in schema and self._normalizer.has_tags(place)
            if asserted(schema) == frozenset({keyword}) and not tagged:
                return [(*place, keyword, index) for index in range(len(schema[keyword]))]
        return None

    def _shape(self, shape: Shape, place: JsonPointer, depth: int) -> Emitted:
        match shape:
            case Plain(name):
                return {"type": name}
            case Number():
                return emit_number(shape, place, self._normalizer.budget)
            case Text():
                return emit_text(shape, place, self._normalizer.budget)
            case Array():
                return self._array(shape, place, depth)
            case Object():
                return self._objects.written(shape, place, depth)
            case Value():
                return emit_value(shape.value)

    def _array(self, shape: Array, place: JsonPointer, depth: int) -> Emitted:
        if shape.unique and not shape.prefix and (values := self._listed(shape.rest)):
            return self._set(shape, values, place)
        prefix: list[Emitted] = []
        high = shape.high
        for at, child in enumerate(shape.prefix[:high]):
            item = self.schema(child, depth + 1)
            if item is False:
                high = at
                break
            prefix.append(item)
        rest = self._rest(shape, depth) if high is None or high > len(prefix) else False
        if rest is False:
            high = len(prefix)
        if high is not None and shape.low > high:
            return self._dead(place, f'there can be no {shape.low} items, as "minItems" wants')
        if len(prefix) - shape.low > MAX_OPTIONAL:
            raise refusal(place, f'"prefixItems" is supported for up to {MAX_OPTIONAL} beyond "minItems"')
        if shape.low > _MAX_ITEMS:
            raise refusal(place, f'"minItems" is supported up to {_MAX_ITEMS}')
        written: dict[str, Json] = {
            "type": "array",
            **({"prefixItems": prefix} if prefix else {}),
            "items": rest,
        }
        written |= {"minItems": shape.low} if shape.low else {}
        if rest is not False and high is not None:
            written["maxItems"] = min(high, _MAX_ITEMS)
        return written

    def _rest(self, shape: Array, depth: int) -> Emitted:
        if shape.rest is not None:
            return self.schema(shape.rest, depth + 1)
        return {} if not shape.prefix or shape.low > len(shape.prefix) else False

    def _listed(self, rest: AllOf | None) -> list[Json] | None:
        """The values that there are to choose from, where they can be listed."""
        values: list[Json] = []
        for item in self._normalizer.shapes(rest or ()):
            match item:
                case Value():
                    values.append(item.value)
                case Plain("boolean"):
                    values += [True, False]
                case Plain():
                    values.append(None)
                case _:
                    return None
        return values if len(values) <= _MAX_SET else None

    def _set(self, shape: Array, values: list[Json], place: JsonPointer) -> Emitted:
        """Distinct items, in the schema's order."""
        if shape.low > len(values):
            return self._dead(place, "there are too few distinct items")
        high = len(values) if shape.high is None else min(shape.high, len(values))
        return {"set": [emit_value(value) for value in values], "minItems": shape.low, "maxItems": high}

    def _dead(self, place: JsonPointer, reason: str) -> bool:
        self.dead_end = self.dead_end or refusal(place, reason)
        return False


def _any_of(written: Iterable[Emitted]) -> Emitted:
    options: list[Json] = []
    constants: dict[str, Json] = {}
    for emitted in written:
        parts = emitted["anyOf"] if isinstance(emitted, dict) and emitted.keys() == {"anyOf"} else [emitted]
        for part in parts:
            if isinstance(part, dict) and part.keys() <= {"const", "enum"} and part:
                constants |= {value_of(value).key: value for value in part.get("enum", [part.get("const")])}
            elif part is not False and part not in options:
                options.append(part)
    if {} in options or all(shape in options for shape in _ANYTHING):
        return {}
    if constants:
        options.append({"enum": list(constants.values())})
    if not options:
        return False
    return options[0] if len(options) == 1 else {"anyOf": options}
