"""A real Prometheus beside the server under test."""

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from harness.ports import free_port
from tests.observability.promql import RULES
from tests.programs import program

STOP_S = 10


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Its HTTP API."""

    client: httpx.Client

    def ready(self) -> bool:
        try:
            return self.client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expr: str) -> list[float]:
        """The values of an expression now, one for each series."""
        return [float(series["value"][1]) for series in self._get("query", query=expr)["result"]]

    def label_values(self, label: str, selector: str) -> list[str]:
        """What a dashboard's variable offers for `label_values(selector, label)`."""
        return self._get(f"label/{label}/values", **{"match[]": selector})

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **params: str) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", (answer, params)
        return answer["data"]


@contextmanager
def scraping(target: str, scratch: Path) -> Generator[Prometheus]:
    """Prometheus with our rules, looking at `host:port` every second."""
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "caravan", "static_configs": [{"targets": [target]}]}],
    }
    file = scratch / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    tool = program("prometheus")
    with (scratch / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(tool.path),
                f"--config.file={file}",
                f"--storage.tsdb.path={scratch / 'data'}",
                f"--web.listen-address={address}",
            ],
            env=tool.env,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=10) as client:
            yield Prometheus(client)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
