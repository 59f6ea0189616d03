"""Owns how objects are written: declared properties, other keys, and how many there may be."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from app.constrain.emit_scalar import Emitted, emit_text
from app.constrain.normalize import NEVER, Normalizer
from app.constrain.types import AllOf, JsonPointer, Object, Text, Value, refusal, unsupported
from app.core.request import Json

MAX_OPTIONAL = 500
"""What may be left out of one object or array: llguidance follows all of it at once."""

_MAX_COUNTED = 64
"""The grammar grows with the properties that are counted times what they are counted to."""


@dataclass(frozen=True, slots=True)
class _Others:
    """Keys beyond the declared ones."""

    keys: dict[str, Json]


class ObjectEmitter:
    def __init__(
        self,
        normalizer: Normalizer,
        write: Callable[[AllOf, int], Emitted],
        dead: Callable[[JsonPointer, str], bool],
    ) -> None:
        self._normalizer = normalizer
        self._write = write
        self._dead = dead

    def written(self, shape: Object, place: JsonPointer, depth: int) -> Emitted:
        shape = self._with_finite_names(shape)
        declared: dict[str, Json] = {}
        for name in dict.fromkeys([*shape.properties, *shape.required]):
            child = self._child(shape, name, depth)
            if child is not False:
                declared[name] = child
            elif name in shape.required:
                return self._dead(place, f'the required property "{name}" can have no value')
        if shape.high is not None and shape.high < len(shape.required):
            return self._dead(place, '"maxProperties" is less than the number of required properties')
        if shape.high == len(shape.required):
            declared = {name: child for name, child in declared.items() if name in shape.required}
            others = None
        else:
            others = self._others(shape, place, depth)
        if len(declared) - len(shape.required) > MAX_OPTIONAL:
            reason = f"an object is supported with up to {MAX_OPTIONAL} properties that are not required"
            raise refusal(place, reason)
        counts = self._counts(shape, declared, others, place)
        return False if counts is None else {**_emitted(shape, declared, others), **counts}

    def _child(self, shape: Object, name: str, depth: int) -> Emitted:
        if not self._normalizer.admits_both(shape.names, name):
            return False
        return self._write(self._normalizer.property_schema(shape, name) or (), depth + 1)

    def _with_finite_names(self, shape: Object) -> Object:
        """`propertyNames` with an `enum` declares these names."""
        if not shape.names or (shape.rest is None and (shape.properties or shape.patterns)):
            return shape
        names = self._normalizer.shapes(shape.names)
        if not all(isinstance(name, Value) for name in names):
            return shape
        texts = [name.value for name in names if isinstance(name, Value) and isinstance(name.value, str)]
        properties = {
            name: self._normalizer.property_schema(shape, name) or ()
            for name in [*shape.properties, *texts]
            if name in texts
        }
        return replace(shape, properties=properties, rest=(NEVER,), patterns={}, names=())

    def _others(self, shape: Object, place: JsonPointer, depth: int) -> _Others | None:
        if shape.patterns:
            return self._patterned(shape, place, depth)
        taken = dict.fromkeys([*shape.properties, *shape.required])
        if shape.rest is None and (shape.properties or (taken and shape.names)):
            return None
        value = self._write(shape.rest or (), depth + 1)
        if value is False:
            return None
        if not shape.names:
            return _Others({"additionalProperties": value})
        keys = self._named_keys(shape, place)
        if taken:
            raise unsupported(place, "propertyNames", 'is not supported beside "properties"')
        return None if keys is False else _Others({"propertyNames": keys, "additionalProperties": value})

    def _patterned(self, shape: Object, place: JsonPointer, depth: int) -> _Others | None:
        if len(shape.patterns) > 1 or shape.names:
            reason = 'is supported only with one pattern and without "propertyNames"'
            raise unsupported(place, "patternProperties", reason)
        if shape.rest is not None and self._write(shape.rest, depth + 1) is not False:
            raise unsupported(place, "patternProperties", 'is not supported beside "additionalProperties"')
        ((source, child),) = shape.patterns.items()
        for name in [*shape.properties, *shape.required]:
            if self._normalizer.budget.matches(source, name):
                raise unsupported(
                    place, "patternProperties", f'is not supported where it matches "{name}" as well'
                )
        value = self._write(child, depth + 1)
        return None if value is False else _Others({"patternProperties": {source: value}})

    def _named_keys(self, shape: Object, place: JsonPointer) -> Emitted:
        names = [name for name in self._normalizer.shapes(shape.names) if isinstance(name, Text | Value)]
        match names:
            case [Text() as text]:
                return emit_text(text, (*place, "propertyNames"), self._normalizer.budget)
            case _:
                raise unsupported(place, "propertyNames", "is supported only as one kind of string")

    def _counts(
        self, shape: Object, declared: Mapping[str, Json], others: _Others | None, place: JsonPointer
    ) -> dict[str, int] | None:
        """The counts that are not met in any case; None where they cannot be met."""
        low = shape.low if shape.low > len(shape.required) else 0
        high = shape.high
        if others is None:
            if low > len(declared):
                self._dead(place, f'there are too few properties for "minProperties" {low}')
                return None
            high = None if high is None or high >= len(declared) else high
        elif low > len(shape.required) + 1:
            # The grammar cannot keep keys it does not know from being the same key twice.
            raise unsupported(place, "minProperties", "is supported only where all properties are declared")
        if (low or high is not None) and len(declared) > _MAX_COUNTED:
            reason = f"is supported only for objects of at most {_MAX_COUNTED} properties"
            raise unsupported(place, "minProperties" if low else "maxProperties", reason)
        return {
            **({"minProperties": low} if low else {}),
            **({} if high is None else {"maxProperties": high}),
        }


def _emitted(shape: Object, declared: Mapping[str, Json], others: _Others | None) -> dict[str, Json]:
    emitted: dict[str, Json] = {"type": "object", "additionalProperties": False}
    if declared:
        emitted["properties"] = dict(declared)
    if shape.required:
        emitted["required"] = list(shape.required)
    return emitted if others is None else emitted | others.keys
