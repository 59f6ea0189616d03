"""Pools: pods that are alike on one store, without rights in the cluster and without an operator."""

import re
from typing import Any

import pytest
import yaml

from app.settings.server import read_settings
from tests.chart.helm import VALUES, Object, containers, objects, of_kind, pod_specs, template, try_template
from tests.chart.sense import pod_names, queried
from tests.chart.test_pods import components, workload

pytestmark = pytest.mark.row("C7")

FILES = {file.stem.removesuffix("-values"): file for file in VALUES}
POOL: dict[str, Any] = {"name": "shared", "replicas": 3}
OWN: dict[str, Any] = {"name": "a", "source": "bundled"}


def pools(*given: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {"models": [OWN], "pools": list(given or (POOL,)), **values}


def server(every: list[Object], name: str = "caravan-shared") -> Object:
    (found,) = (each for each in containers(spec(every, name)) if each["name"] == "server")
    return found


def spec(every: list[Object], name: str = "caravan-shared") -> Object:
    return workload(name, every)["spec"]["template"]["spec"]


def env(container: Object) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def config(every: list[Object], name: str) -> dict[str, Any]:
    (found,) = (each for each in of_kind("ConfigMap", every) if each["metadata"]["name"] == name)
    return yaml.safe_load(found["data"]["caravan.yaml"])


def egress(every: list[Object], name: str) -> list[Any]:
    (found,) = (each for each in of_kind("NetworkPolicy", every) if each["metadata"]["name"] == name)
    return found["spec"].get("egress", [])


def test_all_pods_have_the_one_store() -> None:
    every = objects(given=pools(POOL, {"name": "large", "names": ["*:70b"]}))
    (claim,) = of_kind("PersistentVolumeClaim", every)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    for name in ("caravan-shared", "caravan-large"):
        (volume,) = (each for each in spec(every, name)["volumes"] if "persistentVolumeClaim" in each)
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (mount,) = (each for each in server(every, name)["volumeMounts"] if each["name"] == volume["name"])
        assert mount == {"name": "store", "mountPath": "/store"}
        told = env(server(every, name))
        # What one pod has pulled or converted is there for all.
        assert all(told[key].startswith("/store/") for key in ("CARAVAN_MODELS_DIR", "CARAVAN_CACHE_DIR"))
        assert told["HF_HOME"].startswith("/store/")
        assert spec(every, name)["securityContext"]["fsGroup"] == 10001
    assert "initContainers" not in spec(every)


def test_a_claim_that_is_there_is_used() -> None:
    every = objects(given=pools(store={"existingClaim": "ollama", "folder": "a/models"}))
    assert of_kind("PersistentVolumeClaim", every) == []
    assert {"name": "store", "persistentVolumeClaim": {"claimName": "ollama"}} in spec(every)["volumes"]
    assert env(server(every))["CARAVAN_MODELS_DIR"] == "/store/a/models"


def test_a_claim_for_one_node_is_for_one_pod() -> None:
    """A second one would wait for the claim for ever, and with it an upgrade."""
    one = pools({"name": "shared"}, store={"accessMode": "ReadWriteOnce"})
    deployment = workload("caravan-shared", objects(given=one))
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert "rollingUpdate" in workload("caravan-a", objects(given=one))["spec"]["strategy"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "many pods on a claim of one node": (
        pools(store={"accessMode": "ReadWriteOnce"}),
        "the 3 pods of the pools share the store: its claim needs the access mode ReadWriteMany",
    ),
    "two pools on a claim of one node": (
        pools({"name": "b"}, {"name": "c", "names": ["c*"]}, store={"accessMode": "ReadWriteOncePod"}),
        "the 2 pods of the pools share the store",
    ),
    "scaled on a claim of one node": (
        pools(
            {"name": "b", "autoscaling": {"kind": "hpa", "maxReplicas": 1}},
            store={"accessMode": "ReadWriteOnce"},
        ),
        "share the store",
    ),
    "two pools for all names": (pools(POOL, {"name": "b"}), "pools shared and b all take every name"),
    "scaled to nothing": (
        pools({"name": "b", "autoscaling": {"kind": "keda", "minReplicas": 0}}),
        "pool b would scale to no pod",
    ),
    "a pool named as a model": (pools({"name": "a"}), "pool a would be named a, as is a"),
    "a pool named as a part of the chart": (
        pools({"name": "gateway"}),
        "pool gateway would be named gateway",
    ),
    "a pool named as its claim": (pools({"name": "store"}), "pool store would be named store"),
    "a request above its limit": (
        pools({"name": "b", "resources": {"requests": {"cpu": 8}, "limits": {"cpu": 1}}}),
        "pool b requests more cpu than its limit",
    ),
    "a volume that the chart has": (
        pools({"name": "b", "extraVolumes": [{"name": "store", "emptyDir": {}}]}),
        "pool b has a volume named store",
    ),
    "a load test of nothing": (
        pools(models=[], loadtest={"enabled": True}),
        "the load test has no model to ask",
    ),
    "neither models nor pools": ({"models": []}, "models"),
    "a source": (pools({"name": "b", "source": "bundled"}), "source"),
    "a setting that the chart makes": (pools({"name": "b", "settings": {"models_dir": "/x"}}), "models_dir"),
    "what a pool has itself": (pools({"name": "b", "settings": {"pull": False}}), "pull"),
}


@pytest.mark.parametrize(("given", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused(given: dict[str, Any], reason: str) -> None:
    done = try_template(given=given)
    assert done.returncode != 0
    assert reason in done.stderr


def test_only_who_may_pull_reaches_registries() -> None:
    given = pools(POOL, {"name": "closed", "names": ["x*"], "pull": False}, hub={"existingSecret": "hub"})
    every = objects(given=given)
    assert {port["port"] for rule in egress(every, "caravan-shared") for port in rule["ports"]} == {80, 443}
    assert egress(every, "caravan-closed") == []
    open_env, closed_env = env(server(every)), env(server(every, "caravan-closed"))
    assert ("HF_TOKEN" in open_env, "HF_HUB_OFFLINE" in open_env) == (True, False)
    assert ("HF_TOKEN" in closed_env, closed_env["HF_HUB_OFFLINE"]) == (False, "1")
    assert config(every, "caravan-shared")["pull"] is True
    assert config(every, "caravan-closed")["pull"] is False
    without = objects(given=given | {"networkPolicy": {"hub": False}})
    assert egress(without, "caravan-shared") == []


def test_a_pool_is_chosen_by_its_policies_and_nothing_else_is() -> None:
    every = objects(given=pools(POOL, {"name": "b", "names": ["b*"]}))
    labels = workload("caravan-shared", every)["spec"]["template"]["metadata"]["labels"]
    chosen = {
        each["metadata"]["name"]
        for each in of_kind("NetworkPolicy", every)
        if each["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        and labels["app.kubernetes.io/component"]
        in (components(each["spec"]["podSelector"])[0] or "pool", "pool")
    }
    assert chosen == {"caravan-deny", "caravan-shared"}
    (gateway,) = (
        each for each in of_kind("NetworkPolicy", every) if each["metadata"]["name"] == "caravan-gateway"
    )
    (rule,) = gateway["spec"]["egress"]
    assert components(rule["to"][0]["podSelector"]) == ["model", "pool"]


def test_settings_of_a_pool_are_over_those_of_all() -> None:
    given = pools(
        {"name": "b", "settings": {"max_loaded_models": 4, "tools": ["net"]}, "loadTimeoutSeconds": 7},
        settings={"preload": True, "pull": True, "keep_alive": -1, "max_queue": 9},
    )
    found = config(objects(given=given), "caravan-b")
    assert (
        found
        | {
            "models": [],
            "preload": False,
            "keep_alive": "5m",
            "max_loaded_models": 4,
            "max_queue": 9,
            "tools": ["net"],
            "load_total_timeout": 7,
        }
        == found
    )
    assert config(objects(given=given), "caravan-a")["keep_alive"] == -1


def test_the_directory_lists_pools_and_has_no_store_of_its_own() -> None:
    found = config(objects(given=pools(models=[], settings={"pull": True})), "caravan-gateway")
    assert (found["peers"], found["peer_pools"]) == ([], ["http://caravan-shared:11434"])
    assert (found["models"], found["pull"]) == ([], False)
    assert "peer_pools" not in config(objects(given={}), "caravan-gateway")


def test_the_pool_for_all_names_is_asked_last() -> None:
    every = objects(given=pools(POOL, {"name": "large", "names": ["*:70B*"], "podsPerModel": 2}))
    (gateway,) = (each for each in of_kind("ConfigMap", every) if "envoy.yaml" in each["data"])
    found = re.findall(r"{ slug = .*}", gateway["data"]["envoy.yaml"])
    assert found == [
        '{ slug = "large", pods = 2, names = { "*:70b*", } }',
        '{ slug = "shared", pods = 1 }',
    ]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (pools(), 3600),
        (pools(store={"uploadSeconds": 90}), 90),
        (pools(store={"uploadSeconds": 9}, gateway={"bodySeconds": 70}), 70),
        ({"gateway": {"bodySeconds": 70}}, 70),
    ],
)
def test_a_blob_has_the_time_that_it_takes(given: dict[str, Any], seconds: int) -> None:
    (gateway,) = (each for each in of_kind("ConfigMap", objects(given=given)) if "envoy.yaml" in each["data"])
    listener = yaml.safe_load(gateway["data"]["envoy.yaml"])["static_resources"]["listeners"][0]
    (http,) = listener["filter_chains"][0]["filters"]
    assert http["typed_config"]["request_timeout"] == f"{seconds}s"


@pytest.mark.parametrize("file", ["pool", "pool-alone"])
def test_no_right_in_the_cluster_is_asked_for(file: str) -> None:
    every = objects(FILES[file])
    ours = {"apps/v1", "autoscaling/v2", "batch/v1", "networking.k8s.io/v1", "policy/v1", "v1"}
    assert {each["apiVersion"] for each in every} <= ours | {"monitoring.coreos.com/v1"}
    assert not {each["kind"] for each in every} & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}
    assert all(each["automountServiceAccountToken"] is False for _, each in pod_specs(every))


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_a_pool_scales_on_its_own_pods(kind: str) -> None:
    scale = {"autoscaling": {"kind": kind, "queueDepth": 3}}
    every = objects(given=pools({"name": "b", **scale}, {"name": "b-c", "names": ["c*"], **scale}))
    kinds = {"hpa": "HorizontalPodAutoscaler", "keda": "ScaledObject"}
    scaled = {each["metadata"]["name"]: each for each in of_kind(kinds[kind], every)}
    assert scaled.keys() == {"caravan-b", "caravan-b-c"}
    assert scaled["caravan-b"]["spec"]["scaleTargetRef"]["kind"] == "Deployment"
    assert "replicas" not in workload("caravan-b", every)["spec"]
    if kind == "keda":
        (pattern,) = queried(scaled["caravan-b"])
        own, other = (pod_names(workload(name, every)) for name in scaled)
        assert all(re.fullmatch(pattern, name) for name in own)
        assert not any(re.fullmatch(pattern, name) for name in other)


def test_a_pool_is_watched_and_disturbed_as_a_model_is() -> None:
    given = pools({"name": "b", "podDisruptionBudget": {"minAvailable": 1}})
    for kind in ("serviceMonitor", "podMonitor"):
        every = objects(given=given | {"metrics": {kind: {"enabled": True}}})
        monitors = of_kind(kind[0].upper() + kind[1:], every)
        assert any("pool" in components(each["spec"]["selector"]) for each in monitors)
    (budget,) = (
        each for each in of_kind("PodDisruptionBudget", every) if each["metadata"]["name"] == "caravan-b"
    )
    assert budget["spec"]["minAvailable"] == 1
    (gateway,) = (each for each in of_kind("ConfigMap", every) if "envoy.yaml" in each["data"])
    clusters = yaml.safe_load(gateway["data"]["envoy.yaml"])["static_resources"]["clusters"]
    # What alerts and the dashboard go by.
    assert "model-b" in {each["name"] for each in clusters}


def test_a_pool_alone_has_no_test_of_a_model_that_nobody_pulled() -> None:
    assert of_kind("Pod", objects(FILES["pool-alone"])) == []
    (pod,) = of_kind("Pod", objects(given=pools(models=[], test={"model": "qwen3"})))
    assert {"name": "MODEL", "value": "qwen3"} in pod["spec"]["containers"][0]["env"]


def test_without_pools_nothing_of_them_is_rendered() -> None:
    text = template(FILES["many-models"])
    script = (FILES["pool"].parents[1] / "files" / "route.lua").read_text()
    lines = {line.strip() for line in text.splitlines()} - {line.strip() for line in script.splitlines()}
    assert not [line for line in lines if re.search(r"(?i)pool|store", line)]


def test_defaults_of_a_pool_are_settings_that_there_are(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "caravan.yaml"
    file.write_text(yaml.safe_dump(config(objects(given=pools()), "caravan-shared")))
    monkeypatch.setenv("CARAVAN_CONFIG", str(file))
    settings = read_settings()
    assert (settings.preload, settings.pull, settings.max_loaded_models) == (False, True, 1)
    assert settings.keep_alive == 300
