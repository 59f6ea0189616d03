"""Values that the chart's schema allows, at random: each draw takes some of the properties that there are."""

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, TypeAlias

from rstr import Rstr

from tests.chart.helm import CHART

Schema: TypeAlias = Mapping[str, Any]
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())

ODD = (
    "",
    "x",
    "yes",
    "0",
    "1e3",
    "null",
    "~",
    "a: b",
    "- c",
    "# d",
    "'",
    '"',
    "\\",
    "{{ .Release.Name }}",
    "é\n\tf",
    "{g}",
    "[h]",
    "%i",
    "*j",
    "&k",
)
"""Texts that mean something else in YAML or in a template where they are not quoted."""
_MOST = 3
"""Items of a list and keys of a free map."""

FREE: Mapping[str, Sequence[Any]] = {
    "accessMode": ["ReadWriteMany"],  # others are refused for more than one pod
    "affinity": [{}, {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}],
    "behavior": [{}, {"scaleDown": {"stabilizationWindowSeconds": 60}}],
    "claims": [[]],
    "envFrom": [[], [{"configMapRef": {"name": "a"}}, {"secretRef": {"name": "b", "optional": True}}]],
    "extraEgress": [[], [{"ports": [{"port": 4317, "protocol": "TCP"}]}]],
    "extraObjects": [[], [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}}]],
    "extraVolumes": [[], [{"name": "more", "emptyDir": {}}]],
    "extraVolumeMounts": [[], [{"name": "more", "mountPath": "/more"}]],
    "gatewayFrom": [[], [{"podSelector": {"matchLabels": {"a": "b"}}}]],
    "initContainers": [[], [{"name": "first", "image": "first:1"}]],
    "limits": [{}, {"cpu": "2", "memory": "4Gi"}, {"nvidia.com/gpu": 1, "cpu": 1}],
    "metricsFrom": [[], [{"namespaceSelector": {}}]],
    "requests": [{}, {"cpu": "500m"}, {"cpu": 1, "memory": "3.5Gi"}, {"cpu": "1500m"}],
    "sidecars": [[], [{"name": "beside", "image": "beside:1"}]],
    "strategy": [{}],
    "tls": [[], [{"hosts": ["a.example.com"], "secretName": "tls"}]],
    "topologySpreadConstraints": [
        [],
        [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    ],
    "valueFrom": [{"fieldRef": {"fieldPath": "metadata.name"}}],
}
"""What is Kubernetes' own, handed on as it is: the schema leaves it to the cluster."""
_BOTH = {"value", "valueFrom"}


class Draw:
    """Values out of one seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._strings = Rstr(self._random)

    def values(self) -> dict[str, Any]:
        """One set of values; with more or less of what could be set."""
        found = self._object(SCHEMA, self._random.choice((0.1, 0.3, 0.7)))
        found.pop("global", None)
        return found

    def _any(self, schema: Schema, share: float, name: str = "") -> Any:
        if name in FREE:
            return self._random.choice(FREE[name])
        if "$ref" in schema:
            return self._any(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], share, name)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._random.choice(schema["enum"])
        for choice in ("oneOf", "anyOf"):
            if choice in schema:
                return self._any(self._random.choice(schema[choice]), share, name)
        kind = schema.get("type", "object")
        kind = self._random.choice(kind) if isinstance(kind, list) else kind
        return getattr(self, f"_{kind}")(schema, share)

    def _object(self, schema: Schema, share: float) -> dict[str, Any]:
        known, required = schema.get("properties", {}), schema.get("required", ())
        chosen = [key for key in known if key in required or self._random.random() < share]
        found = {key: self._any(known[key], share, key) for key in chosen}
        more = schema.get("additionalProperties", True)
        if isinstance(more, Mapping):
            names = schema.get("propertyNames", {}).get("pattern", "[a-z]{1,8}")
            forbidden = schema.get("propertyNames", {}).get("not", {}).get("enum", ())
            for _ in range(self._random.randrange(_MOST)):
                if (key := self._strings.xeger(names)) and key not in forbidden:
                    found[key] = self._any(more, share)
        elif more and not known:
            found = {f"k{i}": self._string({}, share) for i in range(self._random.randrange(_MOST))}
        if found.keys() >= _BOTH:
            del found["value"]
        if found.get("extraVolumeMounts"):
            found["extraVolumes"] = FREE["extraVolumes"][1]  # without it the chart refuses them
        if "not" in schema:
            for key in schema["not"].get("required", ())[1:]:
                found.pop(key, None)
        return found

    def _array(self, schema: Schema, share: float) -> list[Any]:
        least = schema.get("minItems", 0)
        count = self._random.randint(least, max(least, min(schema.get("maxItems", _MOST), _MOST)))
        items = schema.get("items", {"type": "string"})
        return [self._any(items, share) for _ in range(count)]

    def _string(self, schema: Schema, _: float) -> str:
        if pattern := schema.get("pattern"):
            return self._strings.xeger(pattern.replace("+", "{1,6}").replace("*", "{0,6}"))[
                : schema.get("maxLength", 400)
            ]
        text = self._random.choice(ODD)
        return text if len(text) >= schema.get("minLength", 0) else "x"

    def _integer(self, schema: Schema, _: float) -> int:
        low = schema.get("minimum", 0)
        high = schema.get("maximum", 2**31 - 1)
        return self._random.choice((low, high, self._random.randint(low, high)))

    def _number(self, schema: Schema, share: float) -> float:
        return self._integer(schema, share) / self._random.choice((1, 3))

    def _boolean(self, _: Schema, __: float) -> bool:
        return self._random.random() < 0.5
