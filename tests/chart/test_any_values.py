"""Whatever the schema allows renders into what Kubernetes takes, or is refused for a reason of the chart.

Many values are rendered by one run of Helm, as aliases of one dependency: each is judged by the schema and
rendered for itself, as in a chart that uses this one.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.chart.any_values import SCHEMA, Draw
from tests.chart.helm import CHART, Object, objects, parse, try_template
from tests.chart.schemas import custom_faults, faults
from tests.chart.sense import pod_faults

pytestmark = pytest.mark.row("C2")

SETS = 2_000
BATCH = 50
AT_ONCE = 5
REASONS = (
    "give it a slug",
    "needs the access mode ReadWriteMany",
    "scales on nothing",
    "pods have no claims of their own",
    "than its limit",
    "mounts a volume that is not there",
    "does not fit its cache",
    "give it another name",
    "take every name",
    "scale to no pod",
    "has no model to ask",
    "set frontEnds to 1",
    "each needs a page of the browser",
)
"""What the chart itself refuses: the schema cannot say it."""
VALID = jsonschema_rs.Draft7Validator(SCHEMA)
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
_NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
_REFUSED = re.compile(r"/charts/(\w+)/|^(\w+):$", re.MULTILINE)
LONGEST = {"Service": 63, "Job": 63, "StatefulSet": 52, "LeaderWorkerSet": 52}


def draws(first: int, count: int) -> dict[str, dict[str, Any]]:
    """Sets that the schema allows once the chart's own values are under them, by seed."""
    seeds = ((seed, Draw(seed).values()) for seed in range(first * 100, (first + count) * 100))
    allowed = ((f"v{seed}", values) for seed, values in seeds if VALID.is_valid(merged(DEFAULTS, values)))
    return dict(islice(allowed, count))


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """As Helm merges values: maps key by key, all else replaced."""
    found = dict(under)
    for key, value in over.items():
        below: Any = found.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        found[key] = merged(dict(below), value) if both else value
    return found


def render_all(sets: dict[str, dict[str, Any]], folder: Path) -> CompletedProcess[str]:
    """One Helm run over all sets; the error of one that is refused names its alias."""
    chart = folder / f"umbrella-{next(iter(sets))}-{len(sets)}"
    shutil.copytree(CHART, chart / "charts" / "caravan", ignore=shutil.ignore_patterns("ci"))
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    dependencies = [{"name": "caravan", "alias": alias, "version": version} for alias in sets]
    meta = {"apiVersion": "v2", "name": "umbrella", "version": "1.0.0", "dependencies": dependencies}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(meta))
    done = try_template(given=sets, chart=chart)
    shutil.rmtree(chart)
    return done


def refusal(values: dict[str, Any]) -> str:
    """What Helm says to one set on its own; nothing if it renders or the chart's own reasons say why not."""
    done = try_template(given=values)
    return "" if done.returncode == 0 or own_reason(done.stderr) else done.stderr[:1500]


def own_reason(error: str) -> bool:
    return any(reason in error for reason in REASONS)


def rendered(sets: dict[str, dict[str, Any]], folder: Path) -> tuple[list[Object], list[str]]:
    """The objects of the sets that render, and what is wrong with those that do not."""
    left, wrong = dict(sets), list[str]()
    while left:
        done = render_all(left, folder)
        if done.returncode == 0:
            return parse(done.stdout), wrong
        named = _REFUSED.search(done.stderr)
        assert named, done.stderr
        alias = named.group(1) or named.group(2)
        values = left.pop(alias)
        if not own_reason(done.stderr) and (fault := refusal(values)):
            wrong.append(f"{alias}: {fault}")
    return [], wrong


def rendered_side_by_side(sets: dict[str, dict[str, Any]], folder: Path) -> tuple[list[Object], list[str]]:
    """As `rendered`, a few sets for each run of Helm and a run for each core: one refused set costs a run."""
    aliases = sorted(sets)
    groups = [
        {alias: sets[alias] for alias in aliases[start : start + AT_ONCE]}
        for start in range(0, len(aliases), AT_ONCE)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda group: rendered(group, folder), groups))
    return [each for found, _ in results for each in found], [each for _, wrong in results for each in wrong]


def senseless(every: list[Object]) -> list[str]:
    """What no schema says: names that are none, and pods that no cluster takes."""
    found = pod_faults(every)
    for each in every:
        name = each["metadata"]["name"]
        if not _NAME.match(name) or len(name) > LONGEST.get(each["kind"], 253):
            found.append(f"{each['kind']} {name}")
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SETS, BATCH))
def test_whatever_the_schema_allows(first: int, tmp_path: Path) -> None:
    sets = draws(first, BATCH)
    assert len(sets) == BATCH
    every, wrong = rendered_side_by_side(sets, tmp_path)
    assert wrong == []
    assert len(every) > BATCH * 5
    assert faults(every, "1.33") == []
    assert custom_faults(every) == []
    assert senseless(every) == []


def test_draws_reach_every_part_of_the_schema() -> None:
    seen: Counter[str] = Counter()

    def count(value: Any, path: str = "") -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                seen[f"{path}.{key}"] += 1
                count(inner, f"{path}.{key}")
        elif isinstance(value, list):
            for inner in value:
                count(inner, path)

    for values in draws(0, 300).values():
        count(values)
    assert len(seen) > 200
    assert min(seen[f".models.{key}"] for key in ("nodes", "cache", "autoscaling", "aliases", "engine")) > 30
    assert min(seen[f".pools.{key}"] for key in ("names", "pull", "autoscaling", "settings")) > 30


def test_a_broken_template_would_be_found(tmp_path: Path) -> None:
    good, bad = objects(given={}), {"models": [{"name": "___", "source": "x"}]}
    assert good
    assert refusal(bad) == ""
    assert "bogus" in refusal({"bogus": 1})
    assert rendered({"a": {}, "b": {"bogus": 1}}, tmp_path)[1] != []
