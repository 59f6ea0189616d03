"""What Kubernetes takes: schemas of its versions, where unknown fields are errors, and other kinds' own."""

import json
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
from filelock import FileLock

from tests.chart.helm import ROOT, Object, npm

FOLDER = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
CRDS = ROOT / "tests" / "chart" / "crds"
CUSTOM = {
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
}
"""Kinds of other projects; `crds/validate.mjs` has their schemas."""
GROUPS = ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
INSTALL_S = 240
RUN_S = 60
_DEFINITIONS = "https://kubernetes.io/api/_definitions.json"
_GROUP_NAME = r"\1-"
_GROUP = re.compile(r"^([^./]*)(?:\.[^/]*)?/")


def faults(every: Sequence[Object], kube: str) -> list[str]:
    """What is wrong with objects for a Kubernetes `kube` ("1.33"), a kind that nobody knows included.

    Those of `CUSTOM` are left to `custom_faults`, which takes a second however many they are.
    """
    return [
        f"{each['kind']} {each['metadata']['name']}: {fault}"
        for each in every
        if (each["apiVersion"], each["kind"]) not in CUSTOM
        for fault in _faults(each, kube)
    ]


def _faults(each: Object, kube: str) -> list[str]:
    validator = _validator(each["apiVersion"], each["kind"], kube)
    if validator is None:
        return [f"{each['apiVersion']} is unknown to Kubernetes {kube}"]
    return [
        f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(each)
    ]


@cache
def _validator(version: str, kind: str, kube: str) -> jsonschema_rs.Draft202012Validator | None:
    if (version, kind) == GROUPS:
        schema = json.loads((CRDS / "leaderworkerset.json").read_text())
    else:
        name = f"{kind.lower()}-{_GROUP.sub(_GROUP_NAME, version)}.json"
        file = FOLDER / f"v{kube}.0-local-strict" / name
        if not file.is_file():
            return None
        schema = json.loads(file.read_text())
    return jsonschema_rs.Draft202012Validator(schema, registry=_registry(kube))


@cache
def _registry(kube: str) -> jsonschema_rs.Registry:
    definitions: Any = json.loads((FOLDER / f"v{kube}.0-local-strict" / "_definitions.json").read_text())
    return jsonschema_rs.Registry([(_DEFINITIONS, definitions)])


def custom_faults(every: Sequence[Object]) -> list[str]:
    """What the schemas of other projects find wrong with objects of their kinds; unknown fields pass."""
    every = [each for each in every if (each["apiVersion"], each["kind"]) in CUSTOM]
    done = subprocess.run(
        ["node", str(_validate())],
        input=json.dumps(every),
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert done.returncode == 0, done.stderr
    pairs = zip(every, json.loads(done.stdout), strict=True)
    return [f"{each['kind']} {each['metadata']['name']}: {fault}" for each, fault in pairs if fault]


@cache
def _validate() -> Path:
    """The script, once the schemas that it imports are there; tests may ask for it side by side."""
    made, wanted = CRDS / "node_modules" / ".package-lock.json", CRDS / "package-lock.json"
    with FileLock(CRDS / ".install.lock"):
        if not made.exists() or made.stat().st_mtime < wanted.stat().st_mtime:
            done = subprocess.run(
                [npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=CRDS,
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
            )
            assert done.returncode == 0, done.stderr
    return CRDS / "validate.mjs"
