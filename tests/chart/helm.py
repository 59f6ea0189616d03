"""The chart, and Helm as its judge."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from scripts.helm import NoNpm, helm

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "caravan"
VALUES = sorted(CHART.glob("ci/*-values.yaml"))
"""One file for each way to use the chart."""
MAJORS = (3, 4)
KUBES = ("1.27", "1.30", "1.33", "1.36")
RELEASE = "caravan"
NAMESPACE = "llm"
RUN_S = 300
_ENVIRONMENT = {"HOME": "/nonexistent", "PATH": os.defpath, "GOGC": "400"}
"""No cluster, no settings of the user; a run is short and need not save memory."""

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object as the chart renders it."""


@cache
def program(major: int) -> str:
    """Helm; without npm the test is skipped, except where CI promises that every test runs."""
    try:
        return str(helm(major))
    except NoNpm as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def run(major: int, *arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """One call of Helm."""
    return subprocess.run(
        [program(major), *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        env=_ENVIRONMENT,
    )


def template(
    *values: Path,
    given: Mapping[str, Any] | None = None,
    major: int = 4,
    kube: str = "1.33",
    chart: Path = CHART,
) -> str:
    """What Helm renders of the values files and then `given`; an `AssertionError` if it refuses."""
    return _rendered(values, json.dumps(given or {}), major, kube, chart)


@cache
def _rendered(values: tuple[Path, ...], given: str, major: int, kube: str, chart: Path) -> str:
    """Tests that look at the same rendering share it."""
    done = try_template(*values, given=json.loads(given), major=major, kube=kube, chart=chart)
    assert done.returncode == 0, done.stderr
    return done.stdout


def try_template(
    *values: Path,
    given: Mapping[str, Any] | None = None,
    major: int = 4,
    kube: str = "1.33",
    chart: Path = CHART,
) -> subprocess.CompletedProcess[str]:
    files = [part for file in values for part in ("--values", str(file))]
    return run(
        major,
        "template",
        RELEASE,
        chart,
        f"--namespace={NAMESPACE}",
        f"--kube-version={kube}",
        *files,
        "--values=-",
        given=json.dumps(given or {}),
    )


def parse(text: str) -> list[Object]:
    """The objects of a rendered chart; a key that is written twice is an error, as it is for a server."""
    return [each for each in yaml.load_all(text, UniqueKeys) if each is not None]


def objects(*values: Path, given: Mapping[str, Any] | None = None) -> list[Object]:
    return parse(template(*values, given=given))


def of_kind(kind: str, every: Iterable[Object]) -> list[Object]:
    return [each for each in every if each["kind"] == kind]


def pod_specs(every: Iterable[Object]) -> list[tuple[str, Object]]:
    """The spec of each pod that the objects lead to, and where it is from."""
    found: list[tuple[str, Object]] = []
    for each in every:
        spec, name = each.get("spec", {}), f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] == "Pod":
            found.append((name, spec))
        elif each["kind"] == "LeaderWorkerSet":
            parts = spec["leaderWorkerTemplate"]
            found += [
                (f"{name} {part}", parts[part]["spec"]) for part in ("leaderTemplate", "workerTemplate")
            ]
        elif each["kind"] in ("Deployment", "StatefulSet", "Job"):
            found.append((name, spec["template"]["spec"]))
    return found


def containers(spec: Object) -> Sequence[Object]:
    """All of a pod's containers, those that run first included."""
    return [*spec.get("initContainers", ()), *spec["containers"]]


class UniqueKeys(yaml.CSafeLoader):
    """YAML in which a key of a map may be written once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            twice = {key for key in keys if keys.count(key) > 1}
            raise yaml.constructor.ConstructorError(
                None, None, f"keys written twice: {twice}", node.start_mark
            )
        return super().construct_mapping(node, deep)


def npm() -> str:
    """npm; without it the test is skipped, except where CI promises that every test runs."""
    if found := shutil.which("npm"):
        return found
    assert os.environ.get("CI") != "true", "npm is needed"
    pytest.skip("npm is needed")
