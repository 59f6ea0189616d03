"""Checkov and trivy find nothing in what the chart renders, but for what waivers.yaml gives reasons for."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.tools import CACHE
from tests.chart.helm import NAMESPACE, VALUES, Object, objects

pytestmark = pytest.mark.row("C2")

PROGRAMS = CACHE.parent / "policy" / "bin"
WAIVERS: dict[str, list[dict[str, str]]] = yaml.safe_load(
    Path(__file__).with_name("waivers.yaml").read_text()
)
SCAN_S = 240


@dataclass(frozen=True, slots=True)
class Finding:
    """A check that failed, and the object in which it did."""

    id: str
    where: str
    what: str


def program(name: str) -> Path:
    """A scanner; where the Makefile has not fetched it the test is skipped, except in CI."""
    path = PROGRAMS / name
    if not path.exists():
        assert os.environ.get("CI") != "true", f"{path} is missing"
        pytest.skip(f"`make test` fetches {name}")
    return path


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the chart can render, each object once."""
    folder, seen = tmp_path_factory.mktemp("rendered"), set[str]()
    for file in VALUES:
        new: list[Object] = []
        for each in objects(file):
            text = json.dumps(each, sort_keys=True)
            if text not in seen:
                seen.add(text)
                new += known(each)
        (folder / f"{file.stem}.yaml").write_text(yaml.safe_dump_all(new))
    return folder


def known(each: Object) -> Iterator[Object]:
    """The object in kinds that scanners know: the pods of a LeaderWorkerSet as two Deployments."""
    if each["kind"] != "LeaderWorkerSet":
        yield each
        return
    for part in ("leaderTemplate", "workerTemplate"):
        template = each["spec"]["leaderWorkerTemplate"][part]
        name = f"{each['metadata']['name']}-{part.removesuffix('Template')}"
        yield {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"selector": {"matchLabels": template["metadata"]["labels"]}, "template": template},
        }


def scan(*command: str | Path) -> Any:
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=SCAN_S,
        env={"HOME": "/nonexistent", "PATH": os.defpath, "LOG_LEVEL": "ERROR"},
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@cache
def checkov(folder: Path) -> list[Finding]:
    found = scan(
        *(program("python"), program("checkov"), "--directory", folder, "--framework", "kubernetes"),
        *("--skip-download", "--compact", "--quiet", "--soft-fail", "--output", "json"),
    )
    assert found["summary"]["parsing_errors"] == 0
    assert found["summary"]["passed"] > 500
    return [
        Finding(each["check_id"], each["resource"], each["check_name"])
        for each in found["results"]["failed_checks"]
    ]


@cache
def trivy(folder: Path) -> list[Finding]:
    found = scan(
        *(program("trivy"), "config", "--skip-check-update", "--quiet", "--format", "json"),
        *("--cache-dir", folder.parent / "trivy", folder),
    )
    results = found["Results"]
    assert sum(each["MisconfSummary"]["Successes"] for each in results) > 500
    return [
        Finding(fault["ID"], f"{each['Target']}: {fault['Message']}", fault["Title"])
        for each in results
        for fault in each.get("Misconfigurations", ())
    ]


def waived(finding: Finding, waiver: dict[str, str]) -> bool:
    return finding.id == waiver["id"] and bool(re.search(waiver.get("where", ""), finding.where))


@pytest.mark.parametrize("scanner", [checkov, trivy], ids=["checkov", "trivy"])
def test_nothing_is_found_that_is_not_meant_so(scanner: Any, rendered: Path) -> None:
    found, waivers = scanner(rendered), WAIVERS[scanner.__name__]
    assert {each for each in found if not any(waived(each, waiver) for waiver in waivers)} == set()
    unused = [waiver for waiver in waivers if not any(waived(each, waiver) for each in found)]
    assert unused == []


def test_every_waiver_has_a_reason() -> None:
    assert all(len(waiver["why"]) > 20 for waivers in WAIVERS.values() for waiver in waivers)
