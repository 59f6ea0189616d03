"""What no schema of Kubernetes says and a cluster refuses or runs wrongly."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tests.chart.helm import Object, containers, pod_specs

_UNITS = {"": 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18} | {
    f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", 1)
}
_QUANTITY = re.compile(r"([0-9.]+)([A-Za-z]*)")
_QUERIED = re.compile(r'pod=~"([^"]+)"')


def quantity(value: object) -> float:
    found = _QUANTITY.fullmatch(str(value))
    assert found, value
    return float(found[1]) * _UNITS[found[2]]


def pod_faults(every: Iterable[Object]) -> list[str]:
    """Mounts without a volume, what is named or mounted twice, and requests above their limits."""
    return [
        f"{name}: {fault}"
        for each in every
        for name, spec in pod_specs([each])
        for fault in _pod_faults(spec, each["spec"].get("volumeClaimTemplates", ()))
    ]


def _pod_faults(spec: Object, claims: Iterable[Object]) -> Iterable[str]:
    volumes = [volume["name"] for volume in spec.get("volumes", ())]
    volumes += [claim["metadata"]["name"] for claim in claims]
    yield from _twice("volume", volumes)
    yield from _twice("container", [each["name"] for each in containers(spec)])
    for each in containers(spec):
        mounts = each.get("volumeMounts", ())
        yield from (f"no volume {mount['name']}" for mount in mounts if mount["name"] not in volumes)
        yield from _twice("mount", [mount["mountPath"] for mount in mounts])
        yield from _twice("port", [str(port["containerPort"]) for port in each.get("ports", ())])
        yield from _over(each.get("resources", {}))


def _twice(what: str, names: Iterable[str]) -> Iterable[str]:
    return (f"{what} {name} twice" for name, count in Counter(names).items() if count > 1)


def _over(resources: Mapping[str, Any]) -> Iterable[str]:
    limits = resources.get("limits") or {}
    for name, request in (resources.get("requests") or {}).items():
        if name in limits and quantity(request) > quantity(limits[name]):
            yield f"requests {request} of {name}, limit {limits[name]}"


def pod_names(each: Object) -> set[str]:
    """Names that the pods of a workload may have; of many nodes' the first of each replica, which serves."""
    name = each["metadata"]["name"]
    return {
        "Deployment": {f"{name}-7d9f8c6b5d-x2k4q", f"{name}-5c-bcdfg"},
        "StatefulSet": {f"{name}-0", f"{name}-12"},
        "LeaderWorkerSet": {f"{name}-0", f"{name}-3"},
    }.get(each["kind"], set())


def queried(scaled: Object) -> list[str]:
    """The patterns of pods that a ScaledObject's queries ask for."""
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    patterns = [pattern for query in queries for pattern in _QUERIED.findall(query)]
    assert len(patterns) == len(queries)
    return patterns
