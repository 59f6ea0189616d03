"""The chart's own Envoy configuration in a real Envoy, in front of servers on this machine."""

import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import yaml

from harness.ports import free_port
from scripts.helm import helm

CHART = Path(__file__).parents[1] / "deploy" / "helm" / "caravan"
START_S = 60.0
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running Envoy: the ports of its listener, of its metrics and of its admin, and its process."""

    port: int
    metrics: int
    admin: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def healthy(self, model: str) -> set[int]:
        """The ports of the model's servers that get requests."""
        statuses = httpx.get(f"http://{HOST}:{self.admin}/clusters?format=json").json()["cluster_statuses"]
        (cluster,) = (each for each in statuses if each["name"] == f"model-{model}")
        return {
            host["address"]["socket_address"]["port_value"]
            for host in cluster["host_statuses"]
            if host["health_status"] == {"eds_health_status": "HEALTHY"} and not host.get("priority")
        }

    def wait_healthy(self, model: str, ports: set[int]) -> None:
        """Until just these servers of the model get requests."""
        deadline = time.monotonic() + START_S
        while (found := self.healthy(model)) != ports:
            assert time.monotonic() < deadline, f"healthy are {found}, not {ports}"
            time.sleep(0.05)

    def wait_red(self) -> None:
        """Until the gateway says that it is not ready."""
        deadline = time.monotonic() + START_S
        while httpx.get(f"http://{HOST}:{self.metrics}/ready").status_code == 200:
            assert time.monotonic() < deadline, "the gateway stays ready"
            time.sleep(0.05)


def program() -> Path:
    """Envoy's program, which a package of the development tools carries."""
    spec = find_spec("envoy")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "_bin" / "envoy"


def rendered(values: Mapping[str, Any], scratch: Path) -> dict[str, str]:
    """What the gateway's ConfigMap holds for these values, by file."""
    given = scratch / "values.yaml"
    given.write_text(yaml.safe_dump(dict(values)))
    return _rendered(given.read_text(), given)


@cache
def _rendered(_: str, given: Path) -> dict[str, str]:
    command = (str(helm(4)), "template", "r", str(CHART), "-f", str(given), "-s", "templates/gateway.yaml")
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (config,) = (each for each in yaml.safe_load_all(shown) if each and each["kind"] == "ConfigMap")
    return config["data"]


def placed(
    config: Mapping[str, Any], servers: Mapping[str, Sequence[int]], directory: int, ports: Sequence[int]
) -> dict[str, Any]:
    """The configuration with the addresses of this machine in place of the cluster's, and nothing else."""
    listener, metrics, admin, waiting = ports
    found = dict(config)

    def move(address: dict[str, Any], port: int) -> None:
        address["socket_address"].update(address=HOST, port_value=port)

    resources = found["static_resources"]
    move(found["admin"]["address"], admin)
    for each, port in zip(resources["listeners"], (listener, metrics, waiting), strict=True):
        move(each["address"], port)
    for cluster in resources["clusters"]:
        known = {"admin": [admin], "directory": [directory]}
        wanted = known.get(cluster["name"]) or servers[cluster["name"].removeprefix("model-")]
        group, *others = cluster["load_assignment"]["endpoints"]
        for other in others:
            (place,) = other["lb_endpoints"]
            move(place["endpoint"]["address"], waiting)
        group["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": HOST, "port_value": port}}}}
            for port in wanted
        ]
    return found


@contextmanager
def gateway(
    values: Mapping[str, Any], servers: Mapping[str, Sequence[int]], directory: int, scratch: Path
) -> Generator[Gateway]:
    """Envoy as the chart has it for `values`; `servers` are the ports of each model's, by the slug."""
    ports = [free_port() for _ in range(4)]
    config = placed(yaml.safe_load(rendered(values, scratch)["envoy.yaml"]), servers, directory, ports)
    file, log = scratch / "envoy.yaml", scratch / "envoy.log"
    file.write_text(yaml.safe_dump(config))
    command = (
        str(program()),
        "-c",
        str(file),
        "--disable-hot-restart",
        "--log-level",
        "warn",
        "--concurrency",
        "1",
    )
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    listener, metrics, admin, _ = ports
    made = Gateway(listener, metrics, admin, process.pid)
    try:
        _wait(made, process, log)
        for model, wanted in servers.items():
            made.wait_healthy(model, set(wanted))
        yield made
        assert "[error]" not in log.read_text()
    finally:
        process.terminate()
        process.wait(30)


def _wait(made: Gateway, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://{HOST}:{made.metrics}/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise RuntimeError(f"Envoy does not start:\n{log.read_text()}")
