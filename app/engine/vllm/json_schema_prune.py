"""Owns the removal of what no finite value can satisfy, so that a grammar never leads into a dead end."""

from collections.abc import Mapping

from app.core.request import Json
from app.engine.vllm.json_schema_scalar import Spelled

_PREFIX = "#/$defs/"


def prune(body: Spelled, definitions: Mapping[str, Spelled]) -> tuple[Spelled, dict[str, Json]]:
    """The schema and the definitions it needs; False where nothing satisfies it."""
    finite = _finite(definitions)
    pruned = _Pruner(finite)
    kept = pruned.schema(body)
    needed: dict[str, Json] = {}
    while missing := pruned.referred - needed.keys():
        for name in sorted(missing):
            needed[name] = pruned.schema(definitions[name])
    return kept, needed


def _finite(definitions: Mapping[str, Spelled]) -> set[str]:
    """The definitions that some value without end-less nesting satisfies: the least such set."""
    finite: set[str] = set()
    while True:
        found = {name for name, schema in definitions.items() if _has_value(schema, finite)}
        if found == finite:
            return finite
        finite = found


def _has_value(schema: Spelled, finite: set[str]) -> bool:
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        return schema["$ref"].removeprefix(_PREFIX) in finite
    if "anyOf" in schema:
        return any(_has_value(option, finite) for option in schema["anyOf"])
    if "prefixItems" in schema or "minItems" in schema:
        needed = [*schema.get("prefixItems", ())]
        needed += [schema["items"]] if schema.get("minItems", 0) > len(needed) else []
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
        self.referred: set[str] = set()

    def schema(self, schema: Spelled) -> Spelled:
        if isinstance(schema, bool):
            return schema
        if not _has_value(schema, self._finite):
            return False
        if "$ref" in schema:
            self.referred.add(schema["$ref"].removeprefix(_PREFIX))
        pruned = dict(schema)
        for keyword in ("anyOf", "prefixItems"):
            if keyword in schema:
                kept = [self.schema(option) for option in schema[keyword]]
                pruned[keyword] = [option for option in kept if option is not False]
        for keyword in ("properties", "patternProperties"):
            if keyword in schema:
                children = {name: self.schema(child) for name, child in schema[keyword].items()}
                pruned[keyword] = {name: child for name, child in children.items() if child is not False}
        for keyword in ("items", "additionalProperties"):
            if keyword in schema:
                pruned[keyword] = self.schema(schema[keyword])
        return {
            keyword: value for keyword, value in pruned.items() if keyword != "patternProperties" or value
        }
