"""The chart and the server that it runs cannot drift: settings, probes, ports, commands and metrics agree."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import typer.main
import yaml

from app.catalogue.library import Library
from app.cli import _app as commands  # pyright: ignore[reportPrivateUsage]  # the commands that there are
from app.core.model import Model
from app.engine.base import Engine
from app.main import build_app
from app.prepare import lists_others, served
from app.settings.server import Settings, read_settings
from app.telemetry.instruments import INSTRUMENTS
from scripts.generate import prometheus_name
from tests.chart.helm import ROOT, VALUES, Object, containers, objects, of_kind, pod_specs
from tests.observability.promql import DASHBOARD, RULES, needs
from tests.programs import program

pytestmark = pytest.mark.row("C2")

EVERY = [(file, objects(file)) for file in VALUES]
GUARDED = next(every for file, every in EVERY if file.stem == "guarded-values")
OURS = ("server", "worker", "directory", "fetch")
"""Containers that run Caravan."""
METRICS = {
    prometheus_name(each) + suffix: {label.replace(".", "_") for label in each.attributes}
    for each in INSTRUMENTS
    for suffix in (("_bucket", "_sum", "_count") if each.kind == "histogram" else ("",))
}


def configurations() -> Iterator[tuple[str, str]]:
    """Caravan's configuration files, and whose they are."""
    for file, every in EVERY:
        for each in of_kind("ConfigMap", every):
            if text := each["data"].get("caravan.yaml"):
                yield f"{file.stem}:{each['metadata']['name']}", text


def ours() -> Iterator[tuple[Object, Object]]:
    """Each container that runs Caravan, and the spec of its pod."""
    for _, every in EVERY:
        for _, spec in pod_specs(every):
            for each in containers(spec):
                if each["name"] in OURS:
                    yield each, spec


@pytest.mark.parametrize(
    ("name", "text"), list(configurations()), ids=lambda value: str(value)[:60].split("\n")[0]
)
def test_the_server_takes_the_configuration(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "caravan.yaml"
    file.write_text(text)
    monkeypatch.setenv("CARAVAN_CONFIG", str(file))
    settings = read_settings()
    port = 11435 if name.endswith("-gateway") else 11434
    assert (settings.host.host, settings.host.port) == ("0.0.0.0", port)
    assert lists_others(settings) == name.endswith("-gateway")
    # A pool serves what the store holds and nothing else.
    is_pool = not settings.preload
    assert bool(served(settings)) != (lists_others(settings) or is_pool)


def test_environment_names_are_the_servers() -> None:
    known = {f"CARAVAN_{name.upper()}" for name in Settings.model_fields} | {"CARAVAN_CONFIG"}
    used = {each["name"] for container, _ in ours() for each in container["env"]}
    assert {name for name in used if name.startswith("CARAVAN_")} <= known
    assert used >= {"CARAVAN_CONFIG", "CARAVAN_CACHE_DIR", "CARAVAN_KEYS_FILE"}


def test_commands_exist() -> None:
    known = set(typer.main.get_command(commands).commands)  # pyright: ignore[reportAttributeAccessIssue]
    used = {container["args"][0] for container, _ in ours() if "args" in container}
    used |= {
        re.findall(r"caravan (\w+)", container["command"][-1])[0]
        for container, _ in ours()
        if "args" not in container
    }
    assert used == {"serve", "worker", "fetch"} <= known


def test_servers_on_a_shared_claim_wait_until_its_job_has_filled_it(tmp_path: Path) -> None:
    shared = next(every for file, every in EVERY if file.stem == "shared-cache-values")
    each = {one["name"]: one for _, spec in pod_specs(shared) for one in containers(spec)}
    cache, programs = tmp_path / "cache", tmp_path / "bin"
    cache.mkdir()
    programs.mkdir()
    stub = programs / "caravan"
    stub.write_text("#!/bin/sh\nexit $FAILS\n")
    stub.chmod(0o755)

    def run(name: str, fails: int = 0) -> "subprocess.Popen[bytes]":
        *_, shell, option, text = each[name]["command"]
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", "FAILS": str(fails)}
        return subprocess.Popen([shell, option, text.replace("/cache", str(cache))], env=environment)

    waiting = run("wait")
    try:
        assert run("fetch", fails=1).wait(10) == 1
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
        assert run("fetch").wait(10) == 0
        assert waiting.wait(10) == 0
    finally:
        waiting.kill()
        waiting.wait()


def test_the_job_of_a_shared_claim_has_another_name_where_its_template_differs() -> None:
    """A Job cannot be changed, so an upgrade to another image would fail."""
    file = next(file for file in VALUES if file.stem == "shared-cache-values")
    before, after = (
        {job["metadata"]["name"] for job in of_kind("Job", objects(file, given=changes))}
        for changes in ({}, {"image": {"tag": "another"}})
    )
    assert before
    assert len(before) == len(after)
    assert before.isdisjoint(after)


async def test_probes_ask_for_routes_that_there_are() -> None:
    async def start(_: Model) -> Engine:
        raise AssertionError("nothing can be loaded")

    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    paths = {
        container[kind]["httpGet"]["path"] for container, _ in ours() for kind in kinds if kind in container
    }
    assert paths == {"/startupz", "/readyz", "/livez"}
    monitors = [each for kind in ("ServiceMonitor", "PodMonitor") for each in of_kind(kind, GUARDED)]
    ends = [
        end
        for each in monitors
        for key in ("endpoints", "podMetricsEndpoints")
        for end in each["spec"].get(key, ())
    ]
    paths |= {end["path"] for end in ends if end["port"] == "http"}
    assert "/metrics" in paths
    app = build_app(read_settings(), Library([]), start)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        for path in paths:
            assert (await client.get(path)).status_code in (200, 503), path


def test_ports_are_those_that_the_configuration_names() -> None:
    for container, _ in ours():
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        expected = {"server": {"http": 11434}, "directory": {"directory": 11435}, "fetch": {}, "worker": {}}
        assert ports == expected[container["name"]]


def test_files_are_mounted_where_the_server_looks() -> None:
    for container, spec in ours():
        env = {each["name"]: each.get("value", "") for each in container["env"]}
        mounts = {each["mountPath"] for each in container["volumeMounts"]}
        assert env["CARAVAN_CONFIG"] == "/etc/caravan/caravan.yaml"
        assert mounts >= {"/etc/caravan", "/tmp"}
        assert env["CARAVAN_CACHE_DIR"] in {"/cache", "/tmp/caravan", "/store/cache"}
        for name in ("CARAVAN_CACHE_DIR", "CARAVAN_MODELS_DIR", "HF_HOME"):
            assert name not in env or any(env[name].startswith(f"{mount}") for mount in mounts)
        assert env.get("CARAVAN_KEYS_FILE") in ({None, "/etc/caravan-keys"} & (mounts | {None}))
        volumes = {each["name"] for each in spec["volumes"]} | {"cache"}
        assert {each["name"] for each in container["volumeMounts"]} <= volumes


def test_a_pod_has_the_time_that_its_server_takes_to_drain() -> None:
    for file, every in EVERY:
        texts = [each["data"].get("caravan.yaml", "") for each in of_kind("ConfigMap", every)]
        graces = [yaml.safe_load(text)["grace_period"] for text in texts if text]
        for name, spec in pod_specs(every):
            if any(container["name"] == "server" for container in spec["containers"]):
                [server] = [each for each in spec["containers"] if each["name"] == "server"]
                wait = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
                assert spec["terminationGracePeriodSeconds"] > max(graces) + wait, (file.stem, name)


def test_metrics_that_scale_are_the_servers() -> None:
    scaled = [each for _, every in EVERY for each in of_kind("ScaledObject", every)]
    queries = [trigger["metadata"]["query"] for each in scaled for trigger in each["spec"]["triggers"]]
    assert len(queries) >= 2
    for need in (need for query in queries for need in needs(query)):
        assert need.metric in METRICS
        assert need.labels - {"namespace", "pod", "le"} <= METRICS[need.metric]
    hpas = [each for _, every in EVERY for each in of_kind("HorizontalPodAutoscaler", every)]
    names = {
        metric["pods"]["metric"]["name"]
        for each in hpas
        for metric in each["spec"]["metrics"]
        if "pods" in metric
    }
    derived = {"caravan_time_to_first_token_seconds_p95"}
    assert names - derived <= METRICS.keys()
    assert "caravan_queue_depth" in names
    adapter = (ROOT / "docs" / "scaling.md").read_text()
    assert all(f"as: {name}" in adapter for name in names)


def test_rules_and_dashboard_are_those_of_the_repository(tmp_path: Path) -> None:
    [rule] = of_kind("PrometheusRule", GUARDED)
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    boards = [each["data"] for each in of_kind("ConfigMap", GUARDED) if "caravan.json" in each["data"]]
    assert [json.loads(board["caravan.json"]) for board in boards] == [json.loads(DASHBOARD.read_text())]
    file, tool = tmp_path / "rules.yaml", program("promtool")
    file.write_text(yaml.safe_dump(rule["spec"]))
    done = subprocess.run([tool.path, "check", "rules", file], env=tool.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_all_nodes_of_a_model_have_one_set_of_engine_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers had vLLM's defaults, and lists and booleans as texts that vLLM refused."""
    file = next(file for file in VALUES if file.stem == "many-nodes-values")
    engine = {
        "tensor_parallel_size": 8,
        "pipeline_parallel_size": 2,
        "device_ids": [0, 1],
        "logits_processors": ["a:B"],
        "disable_log_stats": False,
        "compilation_config": {"level": 3},
    }
    model = yaml.safe_load(file.read_text())["models"][0] | {"engine": engine}
    every = objects(file, given={"models": [model]})
    nodes = {
        each["name"]: each
        for _, spec in pod_specs(every)
        for each in spec["containers"]
        if each["name"] in ("server", "worker")
    }
    said = {
        name: {each["name"]: each for each in container["env"]}["CARAVAN_MODELS"]["value"]
        for name, container in nodes.items()
    }
    assert said["server"] == said["worker"]
    monkeypatch.setenv("CARAVAN_MODELS", said["worker"])
    [read] = read_settings().models
    own = {"nnodes": 2, "node_rank": 0, "master_addr": "$(LWS_LEADER_ADDRESS)"}
    assert read.engine == engine | own
    assert nodes["worker"]["args"] == ["worker", "--node-rank=$(LWS_WORKER_INDEX)"]
    for given in (nodes["server"], nodes["worker"]):
        assert "command" not in given
        assert {"name": "CARAVAN_CONFIG", "value": "/etc/caravan/caravan.yaml"} in given["env"]
