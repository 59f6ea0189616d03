"""One server as an operator runs it, for all that is tried here: keys, JSON logs, telemetry that is sent."""

import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.collector import Collector, collecting
from tests.e2e.engines import OwnServer, load, own
from tests.server import models, serving


@dataclass(frozen=True, slots=True)
class Keys:
    """The key file of the server, and the key that the tests' own client has."""

    file: Path
    own: str

    def run(self, *arguments: str) -> str:
        """What `caravan keys` prints."""
        return run_keys(self.file, *arguments)


def run_keys(file: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "app.cli", "keys", *arguments, "--file", str(file)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="package")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    scopes = [word for scope in ("inference", "models:read", "metrics") for word in ("--scope", scope)]
    return Keys(file, run_keys(file, "create", "--id", "own", *scopes).split()[-1])


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
        "CARAVAN_DEBUG": "1",
    }
    with serving(served, scratch, **settings) as live, own(live, scratch) as running:
        running.client.headers["authorization"] = f"Bearer {keys.own}"
        load(running.client, "tool")
        yield running
