"""Owns the removal of what no finite value can satisfy, so that a grammar never leads into a dead end."""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from app.constrain.emit_scalar import Emitted
from app.constrain.types import refusal
from app.core.request import Json

_PREFIX = "#/$defs/"


def prune(body: Emitted, definitions: Mapping[str, Emitted]) -> tuple[Emitted, dict[str, Json]]:
    """The schema and the definitions it needs; False where nothing satisfies it."""
    _refuse_circles(definitions)
    finite = _finite(definitions)
    pruned = _Pruner(finite)
    kept = pruned.schema(body)
    needed: dict[str, Json] = {}
    while pruned.referred:
        if (name := pruned.referred.pop()) not in needed:
            needed[name] = pruned.schema(definitions[name])
    return kept, needed


def _refuse_circles(definitions: Mapping[str, Emitted]) -> None:
    """A definition may come back to itself inside an array or object, not as one of its own alternatives."""
    try:
        TopologicalSorter({name: _alternatives(schema) for name, schema in definitions.items()}).prepare()
    except CycleError as error:
        raise refusal((), "the schema includes itself without anything in between") from error


def _alternatives(schema: Emitted) -> Iterable[str]:
    if isinstance(schema, bool):
        return
    if "$ref" in schema:
        yield schema["$ref"].removeprefix(_PREFIX)
    for option in schema.get("anyOf", ()):
        yield from _alternatives(option)


def _finite(definitions: Mapping[str, Emitted]) -> set[str]:
    """The definitions that some value without end-less nesting satisfies: the least such set."""
    finite: set[str] = set()
    # A chain is read from its end, so that once is enough.
    left = list(definitions)[::-1]
    while True:
        before = len(finite)
        for name in left:
            if _has_value(definitions[name], finite):
                finite.add(name)
        if len(finite) == before:
            return finite
        left = [name for name in left if name not in finite]


def _has_value(schema: Emitted, finite: set[str]) -> bool:
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        return schema["$ref"].removeprefix(_PREFIX) in finite
    if "anyOf" in schema:
        return any(_has_value(option, finite) for option in schema["anyOf"])
    if "const" in schema or "enum" in schema or "set" in schema:
        return True
    if "items" in schema:
        fewest, prefix = schema.get("minItems", 0), schema.get("prefixItems", [])
        needed = prefix[:fewest] + ([schema["items"]] if fewest > len(prefix) else [])
        return all(_has_value(item, finite) for item in needed)
    properties = schema.get("properties", {})
    if not all(_has_value(properties[name], finite) for name in schema.get("required", ())):
        return False
    others = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties", True)]
    if any(_has_value(value, finite) for value in others):
        return True
    present = sum(_has_value(child, finite) for child in properties.values())
    return schema.get("minProperties", 0) <= present


class _Pruner:
    def __init__(self, finite: set[str]) -> None:
        self._finite = finite
        self.referred: list[str] = []

    def schema(self, schema: Emitted) -> Emitted:
        if isinstance(schema, bool):
            return schema
        if not _has_value(schema, self._finite):
            return False
        if "$ref" in schema:
            self.referred.append(schema["$ref"].removeprefix(_PREFIX))
        pruned = dict(schema)
        if "anyOf" in schema:
            options = [self.schema(option) for option in schema["anyOf"]]
            pruned["anyOf"] = [option for option in options if option is not False]
        if "items" in schema:
            pruned |= self._items(schema)
        for keyword in ("properties", "patternProperties"):
            if keyword in schema:
                children = {name: self.schema(child) for name, child in schema[keyword].items()}
                pruned[keyword] = {name: child for name, child in children.items() if child is not False}
        if "additionalProperties" in schema:
            pruned["additionalProperties"] = self.schema(schema["additionalProperties"])
        unless_empty = ("prefixItems", "patternProperties")
        return {keyword: value for keyword, value in pruned.items() if value or keyword not in unless_empty}

    def _items(self, schema: Mapping[str, Json]) -> dict[str, Json]:
        prefix = [self.schema(item) for item in schema.get("prefixItems", ())]
        possible = prefix.index(False) if False in prefix else len(prefix)
        rest = self.schema(schema["items"]) if possible == len(prefix) else False
        return {"prefixItems": prefix[:possible], "items": rest}
