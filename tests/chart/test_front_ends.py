"""Several front ends of a pod: set by a value of each workload, and refused where the server refuses them."""

from typing import Any

import pytest

from app.serve import shared_out
from app.settings.environment import BadSetting
from app.settings.server import read_settings
from tests.chart.helm import Object, objects, of_kind, try_template
from tests.chart.test_pools import config

pytestmark = pytest.mark.row("C2")

MODEL: dict[str, Any] = {"name": "a", "source": "x/a"}
SHARED: dict[str, Any] = {"name": "shared"}


def count(every: list[Object], name: str) -> int | None:
    """What a configuration file says; None: nothing."""
    return config(every, name).get("front_ends")


def test_a_workload_has_its_own_number_or_that_of_all() -> None:
    given = {
        "modelDefaults": {"frontEnds": 3},
        "models": [MODEL | {"frontEnds": 2}, MODEL | {"name": "b"}, MODEL | {"name": "c", "frontEnds": 1}],
        "pools": [SHARED, {"name": "large", "names": ["*:70b"], "frontEnds": 4}],
    }
    every = objects(given=given)
    numbers = {name: count(every, f"caravan-{name}") for name in ("a", "b", "c", "shared", "large")}
    assert numbers == {"a": 2, "b": 3, "c": None, "shared": 3, "large": 4}
    assert count(every, "caravan-gateway") is None, "the directory has no engines"


def test_by_default_there_is_one_and_nothing_is_said_of_it() -> None:
    every = objects(given={"models": [MODEL], "pools": [SHARED]})
    texts = [each["data"].get("caravan.yaml", "") for each in of_kind("ConfigMap", every)]
    assert any(texts)
    assert not any("front_ends" in text for text in texts)


REFUSED: dict[str, tuple[int, dict[str, Any], dict[str, Any], str]] = {
    "an adapter": (2, {"adapter": "x/lora"}, {}, "2 front ends and the adapter of a"),
    "data parallel engines": (
        2,
        {"engine": {"data_parallel_size": 2}},
        {},
        "2 front ends and data_parallel_size of 2",
    ),
    "nodes by an argument": (2, {"engine": {"nnodes": 2}}, {}, "2 front ends and nnodes of 2"),
    "sleep": (2, {}, {"sleep_memory": 1 << 33}, "2 front ends and sleep_memory"),
    "too few pages": (5, {}, {"tools": "net, webview"}, "settings.browser_pages to 5 or more"),
    "too few pages that were set": (
        3,
        {},
        {"tools": ["webview"], "browser_pages": 2},
        "settings.browser_pages to 3 or more",
    ),
}
"""By what it is: front ends, what a model has, settings, and what the chart says."""


@pytest.mark.parametrize(("number", "own", "settings", "reason"), REFUSED.values(), ids=REFUSED)
def test_the_chart_refuses_what_the_server_does(
    number: int, own: dict[str, Any], settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadSetting):
        shared_out(read_settings(front_ends=number, models=[MODEL | own], **settings))
    done = try_template(given={"models": [MODEL | own | {"frontEnds": number}], "settings": settings})
    assert done.returncode != 0
    assert f"model a has {number} front ends" in done.stderr
    assert reason in done.stderr


ALLOWED: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "one with all of it": (
        1,
        {"adapter": "x/lora", "engine": {"data_parallel_size": 2}},
        {"sleep_memory": 9},
    ),
    "sizes of one": (4, {"engine": {"data_parallel_size": 1, "nnodes": 1}}, {"sleep_memory": 0}),
    "as many pages as there are": (4, {}, {"tools": ["webview"]}),
}


@pytest.mark.parametrize(("number", "own", "settings"), ALLOWED.values(), ids=ALLOWED)
def test_the_chart_takes_what_the_server_does(
    number: int, own: dict[str, Any], settings: dict[str, Any]
) -> None:
    shared_out(read_settings(front_ends=number, models=[MODEL | own], **settings))
    every = objects(given={"models": [MODEL | own | {"frontEnds": number}], "settings": settings})
    assert (count(every, "caravan-a") or 1) == number


REFUSED_BY_THE_CHART: dict[str, tuple[dict[str, Any], str]] = {
    "several nodes": ({"models": [MODEL | {"frontEnds": 2, "nodes": 2}]}, "2 front ends and spans nodes"),
    "an alias with an adapter": (
        {"models": [MODEL | {"frontEnds": 2, "aliases": [{"name": "b", "adapter": "x/lora"}]}]},
        "2 front ends and the adapter of b",
    ),
    "sleep of a pool": (
        {"models": [], "pools": [SHARED | {"frontEnds": 2, "settings": {"sleep_memory": 1}}]},
        "pool shared has 2 front ends and sleep_memory",
    ),
    "none": ({"models": [MODEL | {"frontEnds": 0}]}, "frontEnds"),
    "more than the server takes": ({"models": [MODEL | {"frontEnds": 65}]}, "frontEnds"),
    "a setting of all": ({"settings": {"front_ends": 2}}, "front_ends"),
    "a setting of a pool": ({"pools": [SHARED | {"settings": {"front_ends": 2}}]}, "front_ends"),
}


@pytest.mark.parametrize(("given", "reason"), REFUSED_BY_THE_CHART.values(), ids=REFUSED_BY_THE_CHART)
def test_what_cannot_work_is_refused(given: dict[str, Any], reason: str) -> None:
    done = try_template(given=given)
    assert done.returncode != 0
    assert reason in done.stderr
