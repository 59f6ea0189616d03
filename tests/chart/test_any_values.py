"""Whatever the schema allows renders into what Kubernetes takes, or is refused for a reason of the chart.

Many values are rendered by one run of Helm, as aliases of one dependency: each is judged by the schema and
rendered for itself, as in a chart that uses this one.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.chart.any_values import SCHEMA, Draw
from tests.chart.helm import CHART, Object, objects, parse, try_template
from tests.chart.schemas import custom_faults, faults

pytestmark = pytest.mark.row("C2")

SETS = int(os.environ.get("SETS", "240"))
"""`make test-values` draws 2,000, which takes a quarter of an hour."""
BATCH = 40
REASONS = ("give it a slug", "needs the access mode ReadWriteMany", "scales on nothing")
"""What the chart itself refuses: the schema cannot say it."""
VALID = jsonschema_rs.Draft7Validator(SCHEMA)
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
_NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
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


def render_all(sets: dict[str, dict[str, Any]], folder: Path) -> str | None:
    """What one Helm run makes of all sets; None if it refuses one."""
    chart = folder / f"umbrella-{next(iter(sets))}-{len(sets)}"
    shutil.copytree(CHART, chart / "charts" / "caravan", ignore=shutil.ignore_patterns("ci"))
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    dependencies = [{"name": "caravan", "alias": alias, "version": version} for alias in sets]
    meta = {"apiVersion": "v2", "name": "umbrella", "version": "1.0.0", "dependencies": dependencies}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(meta))
    done = try_template(given=sets, chart=chart)
    shutil.rmtree(chart)
    return done.stdout if done.returncode == 0 else None


def broken(alias: str, values: dict[str, Any]) -> str | None:
    """Why one set does not render; None if the chart's own reasons say so."""
    done = try_template(given=values)
    if done.returncode == 0 or any(reason in done.stderr for reason in REASONS):
        return None
    return f"{alias}: {done.stderr[:1500]}"


def rendered(sets: dict[str, dict[str, Any]], folder: Path) -> tuple[list[Object], list[str]]:
    """The objects of the sets that render, and what is wrong with those that do not."""
    text = render_all(sets, folder)
    if text is not None:
        return parse(text), []
    if len(sets) == 1:
        [(alias, values)] = sets.items()
        fault = broken(alias, values)
        return [], [fault] if fault else []
    pairs = list(sets.items())
    halves = (dict(pairs[: len(pairs) // 2]), dict(pairs[len(pairs) // 2 :]))
    results = [rendered(half, folder) for half in halves]
    return [each for found, _ in results for each in found], [each for _, wrong in results for each in wrong]


def senseless(every: list[Object]) -> list[str]:
    """What no schema says: names that are none, and containers, volumes and ports that are there twice."""
    found: list[str] = []
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
    every, wrong = rendered(sets, tmp_path)
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


def test_a_broken_template_would_be_found(tmp_path: Path) -> None:
    good, bad = objects(given={}), {"models": [{"name": "___", "source": "x"}]}
    assert good
    assert broken("a", bad) is None
    assert broken("a", {"bogus": 1}) is not None
    assert rendered({"a": {}, "b": {"bogus": 1}}, tmp_path)[1] != []
