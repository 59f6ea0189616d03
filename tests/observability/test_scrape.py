"""A real Prometheus scrapes the real server: each expression of the dashboard and of the rules has data."""

import math
import re
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from harness.server import LiveServer
from tests.e2e.engines import asking, eventually, load, unload
from tests.observability.prometheus import Prometheus, scraping
from tests.observability.promql import (
    GATEWAY,
    alerts,
    dashboard,
    exported,
    expressions,
    measured,
    panel_queries,
    records,
    rules,
    unmet,
)

pytestmark = [pytest.mark.engine, pytest.mark.unloads]

WINDOW = "30s"
ROUNDS = 5
"""A rate needs two scrapes between which something happened, so once is not enough."""
WITHIN_S = 20
KEY_LABEL = "caravan_key_id"
"""The server of the tests has no keys; tests/api/test_observability.py has one that does."""
EMPTY_WHILE_WELL = "model:caravan_failed:ratio_rate5m"
_FAILED = re.compile(r'error_type!~"[^"]*", http_response_status_code!~"[^"]*"')


@pytest.fixture(scope="module")
def prometheus(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with scraping(urlsplit(server.url).netloc, tmp_path_factory.mktemp("prometheus")) as running:
        eventually(running.ready, WITHIN_S)
        eventually(lambda: running.query("up == 1"), WITHIN_S)
        yield running


def test_every_expression_has_data(prometheus: Prometheus, client: httpx.Client, server: LiveServer) -> None:
    missing: list[str] = []
    for _ in range(ROUNDS):
        ask_everything(client, server.url)
        wait_for_scrape(prometheus)
        if not (missing := [expr for expr in evaluated() if not has_data(prometheus, expr)]):
            break
    assert missing == []


def test_every_name_and_label_is_exported(client: httpx.Client, server: LiveServer) -> None:
    ask_everything(client, server.url)
    series = exported(client.get("/metrics").text)
    missing = [each for each in unmet(expressions(), series) if not each.startswith(GATEWAY)]
    assert [each for each in missing if f"{{{KEY_LABEL}}}" not in each] == []


def test_every_variable_of_the_dashboard_offers_values(prometheus: Prometheus, client: httpx.Client) -> None:
    load(client, "plain")
    wait_for_scrape(prometheus)
    queries = {
        variable["name"]: re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
        for variable in dashboard()["templating"]["list"]
        if variable["type"] == "query"
    }
    offered = {
        name: prometheus.label_values(found[2], re.sub(r"\$\w+", ".*", found[1]))
        for name, found in queries.items()
        if found
    }
    assert offered.keys() == queries.keys()
    assert {name for name, values in offered.items() if not values} == {"key"}
    assert "plain:latest" in offered["model"]


def test_prometheus_evaluates_every_rule_and_no_alert_fires_while_all_is_well(prometheus: Prometheus) -> None:
    evaluated_rules = eventually(lambda: all_evaluated(prometheus), WITHIN_S)
    assert len(evaluated_rules) == len(rules())
    assert [rule for rule in evaluated_rules if rule["health"] != "ok" or rule.get("state") == "firing"] == []


def all_evaluated(prometheus: Prometheus) -> list[dict[str, str]]:
    found = prometheus.rules()
    return found if all(rule["health"] != "unknown" for rule in found) else []


def ask_everything(client: httpx.Client, url: str) -> None:
    """Requests that end well, a client's mistake, refusals, a cancellation, a load and an unload."""
    load(client, "plain")
    load(client, "emb", input="a")
    prompt = {"model": "plain", "prompt": "Tell me a story.", "options": {"num_predict": 8}}
    assert client.post("/api/generate", json=prompt).status_code == 200
    assert client.post("/api/generate", json=prompt | {"model": "nobody"}).status_code == 404
    foreign = {"Origin": "http://elsewhere.example"}
    assert client.post("/api/generate", json=prompt, headers=foreign).status_code == 403
    private = {"url": "http://127.0.0.1/"}
    assert client.post("/api/experimental/web_fetch", json=private).status_code == 400
    long = prompt | {"options": {"num_predict": 2048, "temperature": 0}, "stream": True}
    with asking(url, "/api/generate", long) as connection:
        assert connection.recv(64)
    unload(client, "emb")


def wait_for_scrape(prometheus: Prometheus) -> None:
    """Until what there is now has been scraped, and the rules have been evaluated after it."""
    now = time.time()
    eventually(lambda: prometheus.query(f"timestamp(up) > {now}"), WITHIN_S)
    eventually(lambda: prometheus.query(f"timestamp({records()[0]}) > {now + 1}"), WITHIN_S)


def evaluated() -> Iterator[str]:
    """What must have data of a server: queries, recorded series, and what alerts compare."""
    yield from (expr for expr in _evaluated() if GATEWAY not in expr)


def _evaluated() -> Iterator[str]:
    for _, expr in panel_queries(WINDOW):
        yield expr
    for rule in rules():
        if rule.get("record") == EMPTY_WHILE_WELL:
            yield _FAILED.sub("", rule["expr"])
    yield from (record for record in records() if record != EMPTY_WHILE_WELL)
    for alert in alerts():
        yield from (part for part in measured(alert["expr"]) if part != EMPTY_WHILE_WELL)


def has_data(prometheus: Prometheus, expr: str) -> bool:
    return any(math.isfinite(value) for value in prometheus.query(expr))
