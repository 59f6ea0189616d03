"""Faults of rendered objects that lint passes and a cluster refuses or runs wrongly, each by its kind."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.engine.vllm.process.environment import compile_caches
from app.settings.server import read_settings
from tests.chart.helm import CHART, VALUES, Object, containers, objects, of_kind, parse, pod_specs, template
from tests.chart.sense import pod_faults, pod_names, quantity, queried

pytestmark = pytest.mark.row("C2", "C3")

GPU: dict[str, Any] = {"limits": {"nvidia.com/gpu": 4}, "requests": {"cpu": "8"}}
SHARED: dict[str, Any] = {"mode": "shared", "size": "50Gi"}


def model(**values: Any) -> dict[str, Any]:
    return {"models": [{"name": "a", "source": "x/a"} | values]}


def workload(name: str, every: list[Object]) -> Object:
    kinds = ("Deployment", "StatefulSet", "LeaderWorkerSet")
    (found,) = (each for each in every if each["kind"] in kinds and each["metadata"]["name"] == name)
    return found


@pytest.mark.parametrize("values", VALUES, ids=lambda file: file.stem.removesuffix("-values"))
def test_mounts_have_volumes_and_limits_are_no_less_than_requests(values: Path) -> None:
    assert pod_faults(objects(values)) == []


def test_what_a_cluster_would_refuse_is_found() -> None:
    (pod,) = (
        each
        for each in objects()
        if each["metadata"]["name"] == "caravan-gateway" and each["kind"] == "Deployment"
    )
    spec = pod["spec"]["template"]["spec"]
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != "tmp"]
    spec["containers"][0]["resources"] = {"requests": {"cpu": "1500m"}, "limits": {"cpu": 1}}
    spec["containers"].append(spec["containers"][1])
    found = " ".join(pod_faults([pod]))
    assert "no volume tmp" in found
    assert "requests 1500m of cpu, limit 1" in found
    assert "container directory twice" in found


class TestResources:
    def test_those_of_a_model_replace_the_defaults(self) -> None:
        """A server of GPUs must not have the memory limit of the small one on CPUs."""
        every = objects(given=model(resources=GPU))
        (spec,) = (spec for name, spec in pod_specs(every) if name == "Deployment caravan-a")
        assert spec["containers"][0]["resources"] == GPU

    def test_those_of_all_models_replace_them_too(self) -> None:
        every = objects(given=model() | {"modelDefaults": {"resources": GPU}})
        (spec,) = (spec for name, spec in pod_specs(every) if name == "Deployment caravan-a")
        assert spec["containers"][0]["resources"] == GPU

    @pytest.mark.parametrize(
        ("model", "least"),
        [
            ({"name": "qwen3:8b", "source": "x/y"}, 16e9),
            ({"name": "big", "source": "Qwen/Qwen3-32B"}, 64e9),
            ({"name": "mixtral:8x7b", "source": "x/y"}, 112e9),
            ({"name": "qwen3", "source": "Qwen/Qwen3-30B-A3B"}, 60e9),
            ({"name": "smollm2:135m", "source": "bundled"}, 1e9),
        ],
    )
    @pytest.mark.parametrize("mode", ["ephemeral", "perPod"])
    def test_the_cache_has_room_for_the_model(self, model: dict[str, Any], least: float, mode: str) -> None:
        every = objects(given={"models": [model | {"cache": {"mode": mode}}]})
        sizes = [
            volume["emptyDir"]["sizeLimit"]
            for _, spec in pod_specs(every)
            for volume in spec.get("volumes", ())
            if volume["name"] == "cache" and "emptyDir" in volume
        ] + [
            claim["spec"]["resources"]["requests"]["storage"]
            for each in of_kind("StatefulSet", every)
            for claim in each["spec"]["volumeClaimTemplates"]
        ]
        assert sizes
        assert min(quantity(size) for size in sizes) >= least


NEIGHBOURS = ("qwen3", "qwen3-8b", "qwen3-8b-0", "qwen3-bcdfg", "qwen", "qwen3-se", "3-8b")
KINDS: Mapping[str, dict[str, Any]] = {
    "Deployment": {},
    "StatefulSet": {"cache": {"mode": "perPod"}},
    "LeaderWorkerSet": {"nodes": 2},
}


@pytest.mark.parametrize("own", KINDS)
@pytest.mark.parametrize("others", KINDS)
def test_a_model_scales_on_its_own_pods_alone(own: str, others: str) -> None:
    """A pattern that also names a neighbour makes one model scale on another's queue."""
    keda = {"autoscaling": {"kind": "keda", "queueDepth": 4, "firstTokenSeconds": 2}}
    models = [
        {"name": name, "source": f"x/{name}", **KINDS[others if number % 2 else own], **keda}
        for number, name in enumerate(NEIGHBOURS)
    ]
    every = objects(given={"models": models})
    pods = {each["metadata"]["name"]: pod_names(each) for each in every if pod_names(each)}
    assert len(pods) == len(NEIGHBOURS) + 1
    for scaled in of_kind("ScaledObject", every):
        target = scaled["spec"]["scaleTargetRef"]["name"]
        for pattern in queried(scaled):
            matched = {pod for names in pods.values() for pod in names if re.fullmatch(pattern, pod)}
            assert matched == pods[target]


@pytest.mark.parametrize(
    "cache", [{"mode": "ephemeral"}, {"mode": "perPod"}, SHARED], ids=lambda each: each["mode"]
)
def test_of_its_cache_a_server_writes_to_its_own_folder_alone(cache: dict[str, Any]) -> None:
    """Each pod compiled for minutes what the one before it had; no server may change a model."""
    (spec,) = (
        spec for name, spec in pod_specs(objects(given=model(cache=cache))) if name.endswith(" caravan-a")
    )
    (server,) = (each for each in spec["containers"] if each["name"] == "server")
    mounts = {each["mountPath"]: each for each in server["volumeMounts"] if each["name"] == "cache"}
    assert mounts.keys() == {"/cache", "/cache/server"}
    assert mounts["/cache"]["readOnly"] is True
    assert mounts["/cache/server"]["subPath"] == "server"
    assert "readOnly" not in mounts["/cache/server"]
    assert read_settings(cache_dir="/cache").server_dir == Path("/cache/server")


def test_compilers_on_a_further_node_write_where_those_on_the_first_do() -> None:
    """vLLM's own workers know nothing of what Caravan sets for its processes."""
    (group,) = of_kind("LeaderWorkerSet", objects(given=model(nodes=2)))
    (worker,) = group["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["containers"]
    env = {each["name"]: each.get("value", "") for each in worker["env"]}
    for name, place in compile_caches(Path("/cache/server")).items():
        assert env[name] == place


class TestRestarts:
    """A pod template that changes restarts every pod of the model, which on GPUs takes minutes of each."""

    BASE = model(cache=SHARED, aliases=[{"name": "b"}]) | {"keys": {"data": "keys: []"}}

    def test_a_new_version_of_the_chart_restarts_none(self, tmp_path: Path) -> None:
        newer = tmp_path / "caravan"
        shutil.copytree(CHART, newer)
        meta = yaml.safe_load((newer / "Chart.yaml").read_text())
        (newer / "Chart.yaml").write_text(yaml.safe_dump(meta | {"version": "99.0.0"}))
        given = self.BASE | {"image": {"tag": "1"}}
        old, new = (parse(template(given=given, chart=chart)) for chart in (CHART, newer))
        assert [pods(each) for each in old] == [pods(each) for each in new]
        assert old != new

    def test_keys_that_are_changed_restart_none(self) -> None:
        changed = self.BASE | {"keys": {"data": "keys: [{}]"}}
        assert [pods(each) for each in objects(given=self.BASE)] == [
            pods(each) for each in objects(given=changed)
        ]

    def test_what_servers_read_at_their_start_restarts_them(self) -> None:
        changed = self.BASE | {"settings": {"max_queue": 7}}
        old, new = (workload("caravan-a", objects(given=given)) for given in (self.BASE, changed))
        assert pods(old) != pods(new)


def pods(each: Object) -> Any:
    spec = each.get("spec", {})
    return spec.get("template") or spec.get("leaderWorkerTemplate")


class TestFetch:
    BASE = model(cache=SHARED) | {"hub": {"existingSecret": "hub"}}

    def job(self, **changes: Any) -> Object:
        (found,) = of_kind("Job", objects(given=self.BASE | changes))
        return found

    @pytest.mark.parametrize(
        "changes",
        [
            {"settings": {"max_queue": 7, "log_format": "text"}},
            {"keys": {"existingSecret": "keys"}},
            {"shutdown": {"gracePeriodSeconds": 7}},
            model(cache=SHARED, replicas=7, loadTimeoutSeconds=7, system="Arr.", parameters={"seed": 1}),
            model(cache=SHARED, aliases=[{"name": "b", "system": "Arr."}], resources=GPU),
            model(cache=SHARED, engine={"max_model_len": 7}),
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_what_does_not_change_the_files_makes_no_new_job(self, changes: dict[str, Any]) -> None:
        assert self.job(**changes) == self.job()
        assert wait(objects(given=self.BASE | changes)) == wait(objects(given=self.BASE))

    @pytest.mark.parametrize(
        "changes",
        [model(cache=SHARED, source="x/b"), {"image": {"tag": "2"}}, {"hub": {"existingSecret": "other"}}],
        ids=lambda changes: next(iter(changes)),
    )
    def test_what_is_another_job_has_another_name(self, changes: dict[str, Any]) -> None:
        """A Job cannot be changed."""
        old, new = self.job(), self.job(**changes)
        assert old["spec"] != new["spec"]
        assert old["metadata"]["name"] != new["metadata"]["name"]

    def test_it_tries_again_for_as_long_as_it_takes(self) -> None:
        """A Job that has failed is never tried again by an upgrade with the same values."""
        spec = self.job()["spec"]
        assert spec["backoffLimit"] == 2**31 - 1
        assert spec["template"]["spec"]["restartPolicy"] == "OnFailure"
        assert "activeDeadlineSeconds" not in spec

    def test_the_wait_for_it_ends_with_what_is_wrong(self, tmp_path: Path) -> None:
        cache = SHARED | {"fetchTimeoutSeconds": 1}
        container = wait(objects(given=model(cache=cache)))
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
        script = container["command"][-1].replace("/cache/", f"{tmp_path}/")
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        assert "has not been filled in 1 s" in done.stderr
        (job,) = of_kind("Job", objects(given=model(cache=cache)))
        fetch = job["spec"]["template"]["spec"]["containers"][0]["command"][-1]
        marker = Path(fetch.partition("touch ")[2].replace("/cache/", f"{tmp_path}/"))
        marker.touch()
        assert subprocess.run(["sh", "-c", script], timeout=30).returncode == 0


def wait(every: list[Object]) -> Object:
    spec = workload("caravan-a", every)["spec"]["template"]["spec"]
    return next(each for each in containers(spec) if each["name"] == "wait")


@pytest.mark.parametrize("values", VALUES, ids=lambda file: file.stem.removesuffix("-values"))
def test_no_pod_is_scraped_twice(values: Path) -> None:
    """Two monitors of one pod count every series twice, and what scales on them sees twice the load."""
    every = objects(values)
    ports = [
        (each["metadata"]["labels"], port["name"])
        for each in every
        if each["kind"] in ("Deployment", "StatefulSet", "LeaderWorkerSet")
        for _, spec in pod_specs([each])[:1]
        for container in spec["containers"]
        for port in container.get("ports", ())
    ]
    assert ports
    for labels, port in ports:
        assert len(list(scrapes(labels, port, every))) <= 1


def components(selector: Object) -> list[str]:
    """The components that a selector of labels takes."""
    expressions = selector.get("matchExpressions", ())
    named = (each["values"] for each in expressions if each["key"].endswith("component"))
    return next(named, [selector.get("matchLabels", {}).get("app.kubernetes.io/component")])


def scrapes(pod: Mapping[str, str], port: str, every: list[Object]) -> Any:
    """Who scrapes the port of pods with these labels."""
    component = pod["app.kubernetes.io/component"]
    for each in of_kind("PodMonitor", every):
        if component in components(each["spec"]["selector"]):
            yield from (end for end in each["spec"]["podMetricsEndpoints"] if end["port"] == port)
    for each in of_kind("ServiceMonitor", every):
        wanted = components(each["spec"]["selector"])
        for service in of_kind("Service", every):
            selects = service["spec"]["selector"].items() <= pod.items()
            if selects and service["metadata"]["labels"]["app.kubernetes.io/component"] in wanted:
                yield from (
                    end
                    for end in each["spec"]["endpoints"]
                    for offered in service["spec"]["ports"]
                    if end["port"] == offered["name"] and offered["targetPort"] == port
                )
