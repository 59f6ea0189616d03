"""What the chart promises: safe pods, budgets that hold, scaling left alone; what cannot be is refused."""

import re
from typing import Any

import pytest

from app.tools.webview import REMOTE_PROXY_PORT
from tests.chart.helm import MAJORS, VALUES, Object, containers, objects, of_kind, pod_specs, try_template

pytestmark = pytest.mark.row("C2", "C3")

files = pytest.mark.parametrize("values", VALUES, ids=lambda file: file.stem.removesuffix("-values"))
MODEL: dict[str, Any] = {"name": "a", "source": "bundled"}


def model(**values: Any) -> dict[str, Any]:
    return {"models": [MODEL | values]}


@files
def test_pods_meet_the_restricted_standard(values: Any) -> None:
    """Pod Security "restricted", and beyond it: nothing is written to the root, no token is mounted."""
    pods = pod_specs(objects(values))
    assert pods
    for name, spec in pods:
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert all(
            volume.keys() & {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
            for volume in spec.get("volumes", ())
        )
        for container in containers(spec):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert context["runAsUser"] == 10001
            assert not context.get("privileged")
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}


@files
def test_every_port_names_its_protocol(values: Any) -> None:
    """Server-side apply in older clusters refuses a port that does not."""
    every = objects(values)
    ports = [port for each in of_kind("Service", every) for port in each["spec"]["ports"]]
    ports += [
        port for _, spec in pod_specs(every) for each in containers(spec) for port in each.get("ports", ())
    ]
    assert ports
    assert all(port["protocol"] == "TCP" for port in ports)


@files
def test_selectors_find_the_pods_that_they_are_for(values: Any) -> None:
    every = objects(values)
    kinds = ("Deployment", "StatefulSet", "LeaderWorkerSet", "Job")
    pods = [_labels(each) for each in every if each["kind"] in kinds]
    for each in every:
        if each["kind"] in ("Service", "PodDisruptionBudget"):
            selector = each["spec"]["selector"]
            wanted = dict(selector.get("matchLabels", selector))
            wanted.pop("leaderworkerset.sigs.k8s.io/worker-index", None)
            assert any(wanted.items() <= labels.items() for labels in pods), each["metadata"]["name"]
        if each["kind"] in ("Deployment", "StatefulSet"):
            assert each["spec"]["selector"]["matchLabels"].items() <= _labels(each).items()


def _labels(each: Object) -> dict[str, str]:
    spec = each["spec"]
    template = spec.get("template") or spec["leaderWorkerTemplate"]["leaderTemplate"]
    return template["metadata"]["labels"]


@files
def test_nothing_is_reached_that_is_not_named(values: Any) -> None:
    every = objects(values)
    policies = of_kind("NetworkPolicy", every)
    [deny] = [each for each in policies if each["metadata"]["name"].endswith("-deny")]
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny["spec"]
    chosen = deny["spec"]["podSelector"]["matchLabels"]
    for each in every:
        if each["kind"] in ("Deployment", "StatefulSet", "LeaderWorkerSet"):
            assert chosen.items() <= _labels(each).items()


def test_a_browser_reaches_the_servers_proxy_and_nothing_else() -> None:
    every = objects(given=model() | {"browser": {"enabled": True}})
    [pods] = [each for each in of_kind("Deployment", every) if each["metadata"]["name"] == "caravan-browser"]
    chosen = [each for each in of_kind("NetworkPolicy", every) if _chooses(each, _labels(pods))]
    [policy] = [each["spec"] for each in chosen]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    [rule] = policy["egress"]
    assert rule["ports"] == [{"port": REMOTE_PROXY_PORT, "protocol": "TCP"}]
    [peer] = rule["to"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "model"
    others = [each for each in every if each["kind"] == "Deployment" and each is not pods]
    deny = [each for each in of_kind("NetworkPolicy", every) if each["metadata"]["name"].endswith("-deny")]
    assert all(_chooses(deny[0], _labels(each)) for each in others)


def _chooses(policy: Object, labels: dict[str, str]) -> bool:
    selector = policy["spec"]["podSelector"]
    excluded = selector.get("matchExpressions", ())
    assert all(each["operator"] == "NotIn" for each in excluded)
    return selector["matchLabels"].items() <= labels.items() and not any(
        labels.get(each["key"]) in each["values"] for each in excluded
    )


@pytest.mark.parametrize("budget", [{"minAvailable": 0}, {"maxUnavailable": 0}, {"minAvailable": "0%"}])
def test_a_budget_of_nothing_is_what_was_asked_for(budget: dict[str, Any]) -> None:
    """`maxUnavailable: 0` must not become `minAvailable: 0`, its opposite."""
    budgets = of_kind("PodDisruptionBudget", objects(given=model(podDisruptionBudget=budget)))
    [ours] = [each for each in budgets if each["metadata"]["name"] == "caravan-a"]
    assert {key: value for key, value in ours["spec"].items() if key != "selector"} == budget


def test_replicas_are_left_to_what_scales() -> None:
    for kind in ("hpa", "keda"):
        every = objects(given=model(autoscaling={"kind": kind}, replicas=3))
        [ours] = [each for each in of_kind("Deployment", every) if each["metadata"]["name"] == "caravan-a"]
        assert "replicas" not in ours["spec"]
    [hpa] = of_kind("HorizontalPodAutoscaler", objects(given=model(autoscaling={"kind": "hpa"})))
    assert hpa["spec"]["scaleTargetRef"]["name"] == "caravan-a"
    assert hpa["spec"]["behavior"].keys() == {"scaleUp", "scaleDown"}


def test_claims_outlive_the_release() -> None:
    [claim] = of_kind("PersistentVolumeClaim", objects(given=model(cache={"mode": "shared"})))
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_digest_decides_instead_of_a_tag() -> None:
    digest = "sha256:" + "a" * 64
    every = objects(given={"image": {"digest": digest, "tag": "x"}, "gateway": {"image": {"digest": digest}}})
    images = {each["image"] for _, spec in pod_specs(every) for each in containers(spec)}
    assert images == {f"caravan@{digest}", f"docker.io/envoyproxy/envoy@{digest}"}


REFUSED: dict[str, dict[str, Any]] = {
    "an unknown value": {"bogus": 1},
    "an unknown value of a model": model(bogus=1),
    "a model without a source": {"models": [{"name": "a"}]},
    "no models": {"models": []},
    "a port that is none": {"service": {"port": 70000}},
    "both forms of a budget": model(podDisruptionBudget={"minAvailable": 1, "maxUnavailable": 1}),
    "a budget of more than all": model(podDisruptionBudget={"minAvailable": "101%"}),
    "an hpa down to nothing": model(autoscaling={"kind": "hpa", "minReplicas": 0}),
    "an ingress without hosts": {"ingress": {"enabled": True}},
    "a digest that is none": {"image": {"digest": "sha256:1"}},
    "a setting that the chart makes": {"settings": {"host": "0.0.0.0"}},
    "two models of one name": {"models": [MODEL, MODEL]},
    "a model named as a part of the chart": {"models": [MODEL | {"name": "gateway"}]},
    "scaling on nothing": model(autoscaling={"kind": "keda", "queueDepth": 0}),
    "nodes with a claim for each pod": model(nodes=2, cache={"mode": "perPod"}),
    "a model named as another's nodes": {
        "models": [
            MODEL | {"name": "b", "slug": "a-set"},
            MODEL | {"nodes": 2, "cache": {"mode": "ephemeral"}},
        ]
    },
    "a request above its limit": model(resources={"requests": {"cpu": 8}, "limits": {"cpu": "7900m"}}),
    "a request of the gateway above its limit": {"gateway": {"resources": {"requests": {"memory": "1Ti"}}}},
    "a mount without a volume": model(extraVolumeMounts=[{"name": "more", "mountPath": "/more"}]),
    "a volume that the chart has": model(extraVolumes=[{"name": "cache", "emptyDir": {}}]),
    "a cache that the model cannot fit": model(name="qwen3:70b", cache={"size": "10Gi"}),
    "two monitors of the same pods": {
        "metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}
    },
    "many pods on a claim of one node": model(
        cache={"mode": "shared", "accessMode": "ReadWriteOnce"}, replicas=2
    ),
}


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("given", REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused(given: dict[str, Any], major: int) -> None:
    done = try_template(given=given, major=major)
    assert done.returncode != 0
    assert re.search("don't meet the specifications|execution error", done.stderr)
