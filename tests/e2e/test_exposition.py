"""What `/metrics` says while engines come and go: one page that any scraper reads, without a series twice."""

import re
from collections import Counter

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.engines import eventually, load, loaded, unload

pytestmark = [pytest.mark.engine, pytest.mark.unloads]

PAIR = ("plain", "emb")
_TYPE = re.compile(r"^# TYPE (\S+)", re.MULTILINE)
_SAMPLE = re.compile(r"^(?!#)([^\s{]+)", re.MULTILINE)


@pytest.fixture
def engines(client: httpx.Client) -> httpx.Client:
    """A client of the server, which has no engine loaded before the test."""
    for model in loaded(client):
        unload(client, model)
    return client


def page(client: httpx.Client) -> str:
    answer = client.get("/metrics").raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return answer.text


def check(text: str) -> None:
    """What the text format demands: a family once, its samples together, no series twice."""
    assert [name for name, count in Counter(_TYPE.findall(text)).items() if count > 1] == []
    series = Counter(
        (sample.name, frozenset(sample.labels.items()))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    )
    assert [each for each, count in series.items() if count > 1] == []
    names = _SAMPLE.findall(text)
    blocks = [name for name, before in zip(names, ["", *names], strict=False) if name != before]
    # The series of a histogram take turns, bucket, count and sum, for each set of labels.
    plain = [name for name in blocks if not name.endswith(("_bucket", "_count", "_sum", "_created"))]
    assert [name for name, count in Counter(plain).items() if count > 1] == []


def models(text: str, name: str) -> set[str]:
    """The engines that have a series of vLLM's metric."""
    return {
        sample.labels["model_name"].removesuffix(":latest")
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"vllm:{name}"
    }


def others(text: str) -> set[str]:
    """The names of the families that are not vLLM's."""
    return {name for name in _TYPE.findall(text) if not name.startswith("vllm:")}


def test_two_engines_share_families_and_leave_nothing_behind(engines: httpx.Client) -> None:
    alone = page(engines)
    check(alone)
    assert "vllm:" not in alone
    for model in PAIR:
        load(engines, model, **({"input": "a"} if model == "emb" else {}))
        check(page(engines))
    both = page(engines)
    assert models(both, "num_requests_running") == set(PAIR)
    assert models(both, "kv_cache_usage_perc") >= {"plain"}
    assert others(alone) <= others(both)
    unload(engines, "emb")
    one = page(engines)
    check(one)
    assert models(one, "num_requests_running") == {"plain"}
    assert others(both) <= others(one)
    unload(engines, "plain")
    check(page(engines))
    assert "vllm:" not in page(engines)


def test_an_engine_that_comes_back_counts_from_zero(engines: httpx.Client) -> None:
    def answers() -> float:
        return sum(
            sample.value
            for family in text_string_to_metric_families(page(engines))
            for sample in family.samples
            if sample.name == "vllm:request_success_total"
        )

    load(engines, "emb", input="a")
    first = answers()
    load(engines, "emb", input="a")
    eventually(lambda: answers() > first, 10)
    unload(engines, "emb")
    load(engines, "emb", input="a")
    check(page(engines))
    assert answers() == first
