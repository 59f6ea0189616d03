"""One server as an operator runs it, for all that is tried here: keys, JSON logs, telemetry that is sent."""

from collections.abc import Generator
from typing import Any

import pytest

from harness.server import models, serving
from tests.e2e.collector import Collector, collecting
from tests.e2e.engines import OwnServer, load, own
from tests.e2e.keys import Keys


@pytest.fixture(scope="package")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.made(tmp_path_factory.mktemp("keys") / "keys.yaml", "inference", "models:read", "metrics")


@pytest.fixture(scope="package")
def collector() -> Generator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="package")
def site(keys: Keys, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Generator[OwnServer]:
    served = [model for model in models() if model["name"] in ("tool", "emb")]
    scratch = tmp_path_factory.mktemp("operated")
    settings: dict[str, Any] = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "CARAVAN_LOG_FORMAT": "json",
        "CARAVAN_KEYS_FILE": str(keys.file),
    }
    with serving(served, scratch, **settings) as live, own(live, scratch) as running:
        running.client.headers["authorization"] = f"Bearer {keys.own}"
        load(running.client, "tool")
        yield running
