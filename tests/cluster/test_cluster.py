"""A real Kubernetes node on this machine, and what operating Caravan in it does to its clients (rows C2, C7).

The node is of Kubernetes 1.20, the newest that Debian 12 has sources of. Two servers of a tiny model stand
behind two gateways; the bundled model is installed with a claim and its Job, chatted with, and load tested.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.catalogue.bundled import bundled
from harness.models.build import build as build_model
from harness.models.catalogue import case
from tests.cluster.images import GATEWAY, archive
from tests.cluster.network import OUTSIDE, within
from tests.cluster.node import Node, cluster, eventually
from tests.cluster.release import Release
from tests.cluster.traffic import streams
from tests.deploy.container import CACHE, IMAGE, ROOT, build, run

pytestmark = [pytest.mark.cluster, pytest.mark.row("C2", "C7"), pytest.mark.timeout(7200)]

PROGRAMS = CACHE.parent / "kubernetes"
PACKAGES = (
    *(
        "golang-go",
        "rsync",
        "make",
        "jq",
        "dpkg-dev",
        "gcc",
        "libc6-dev",
        "openssl",
        "iproute2",
        "etcd-server",
    ),
    *("containerd", "runc", "containernetworking-plugins", "iptables", "conntrack", "socat", "ethtool"),
)
BUILD_S, ROLLOUT_S = 5400, 900
OWNER = 10001
HELLO, STORY = case("llama", "hello"), case("llama", "story")
LONG: dict[str, Any] = {"model": "tiny", "messages": list(STORY.messages), "options": {"temperature": 0}}
MODELS = "caravan/model=tiny,app.kubernetes.io/component=model"
SMALL = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}}
METRICS = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:11434/metrics').read().decode())"
CHAT = """
import json, sys, ollama
url, model, messages = sys.argv[1:]
answer = ollama.Client(url, timeout=300).chat(model, json.loads(messages), options={"temperature": 0})
print(answer.message.content)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short, since the paths of sockets are limited."""
    return tmp_path_factory.mktemp("k")


@pytest.fixture(scope="module")
def node(folder: Path) -> Iterator[Node]:
    run(str(ROOT / "scripts/debian.sh"), *PACKAGES, timeout_s=BUILD_S)
    run(str(ROOT / "tests/cluster/kubernetes.sh"), str(PROGRAMS), timeout_s=BUILD_S)
    with cluster(folder, PROGRAMS) as running:
        images = archive(folder)
        running.load(images)
        images.unlink()
        yield running


def values(**more: Any) -> dict[str, Any]:
    """What both releases have: the images that the node holds, and little of everything.

    All clients ask the same, which affinity would send to one server.
    """
    repository, tag = IMAGE.rsplit(":", 1)
    gateway, version = GATEWAY.rsplit(":", 1)
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "gateway": {
            "image": {"repository": gateway, "tag": version, "pullPolicy": "Never"},
            "resources": SMALL,
            "cacheAffinity": False,
            "directory": {"resources": SMALL},
        },
        "modelDefaults": {"resources": SMALL, "cache": {"resources": SMALL}},
        "shutdown": {"gracePeriodSeconds": 60, "drainSeconds": 5},
        **more,
    }


def tiny(folder: Path, **more: Any) -> dict[str, Any]:
    """Two servers of the tiny model, from a folder of the node that any user may read."""
    source = folder / "models" / "tiny"
    if not source.exists():
        shutil.copytree(build_model("llama"), source, copy_function=shutil.copyfile)
    return values(
        models=[
            {
                "name": "tiny",
                "source": f"/models/{source.name}",
                "replicas": 2,
                "engine": {"dtype": "float32", "kv_cache_memory_bytes": 64 << 20},
                "extraVolumes": [{"name": "models", "hostPath": {"path": str(source.parent)}}],
                "extraVolumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
                **more,
            }
        ]
    )


@pytest.fixture(scope="module")
def release(node: Node, folder: Path) -> Release:
    installed = Release(node, "caravan", folder)
    installed.upgrade(tiny(folder))
    return installed


def chat(url: str, model: str, messages: Any) -> str:
    """The answer that the official client gets outside the cluster."""
    command = [*within(OUTSIDE), sys.executable, "-c", CHAT, url, model, json.dumps(messages)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def servers(node: Node) -> list[str]:
    """Names of the tiny model's pods that are ready and stay."""
    return [
        pod["metadata"]["name"]
        for pod in node.get("pods", "--selector", MODELS)["items"]
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            status["ready"] and status["name"] == "server"
            for status in pod["status"].get("containerStatuses", ())
        )
    ]


def is_busy(node: Node, pod: str) -> bool:
    """Whether the server works on a request."""
    told = node.kubectl("exec", pod, "--container", "server", "--", "python", "-c", METRICS)
    active = [line for line in told.splitlines() if line.startswith("caravan_requests_active{")]
    return any(float(line.rpartition(" ")[2]) for line in active)


def test_a_chat_through_the_gateway_by_the_official_client(release: Release) -> None:
    assert chat(release.url, "tiny", HELLO.messages) == HELLO.content
    assert chat(release.url, "TINY:latest", HELLO.messages) == HELLO.content


def test_a_rolling_restart_loses_nothing(node: Node, release: Release) -> None:
    before = set(servers(node))
    with streams(release.url, 4, LONG) as told:
        node.kubectl("rollout", "restart", "deployment/caravan-tiny")
        node.kubectl("rollout", "status", "deployment/caravan-tiny", f"--timeout={ROLLOUT_S}s")
        eventually(lambda: len(servers(node)) == 2, ROLLOUT_S)
        time.sleep(5)
    print(dict(told.tally))
    assert set(servers(node)).isdisjoint(before)
    assert told.lost() == []
    assert told.tally["whole"] > 20


def test_a_rolling_restart_of_the_gateway_loses_nothing(node: Node, release: Release) -> None:
    with streams(release.url, 4, LONG) as told:
        node.kubectl("rollout", "restart", "deployment/caravan-gateway")
        node.kubectl("rollout", "status", "deployment/caravan-gateway", f"--timeout={ROLLOUT_S}s")
        time.sleep(15)
    print(dict(told.tally))
    assert told.lost() == []
    assert told.tally["whole"] > 10


def test_a_drain_waits_for_the_budget(node: Node, release: Release) -> None:
    """The only node: who is evicted finds no place until it is open again."""
    before = set(servers(node))
    with streams(release.url, 2, LONG) as told:
        drained = node.kubectl(
            *("drain", "node", "--pod-selector", MODELS, "--ignore-daemonsets", "--delete-emptydir-data"),
            *("--timeout", "45s"),
            check=False,
        )
        left = set(servers(node)) & before
        node.kubectl("uncordon", "node")
        eventually(lambda: len(servers(node)) == 2, ROLLOUT_S)
    print(drained, dict(told.tally))
    assert len(left) == 1, "one pod may go; the other stays until the first has been replaced"
    assert told.lost() == []


def test_a_server_that_is_killed_takes_only_its_own_streams_with_it(node: Node, release: Release) -> None:
    victim, survivor = servers(node)
    with streams(release.url, 6, LONG) as told:
        eventually(lambda: is_busy(node, victim) and is_busy(node, survivor), ROLLOUT_S)
        killed_at = time.time()
        node.kill(victim, "server")
        time.sleep(5)
        eventually(lambda: len(servers(node)) == 2, ROLLOUT_S)
    log = node.kubectl("logs", survivor, "--container", "server")
    print(dict(told.tally), [answer["why"] for answer in told.lost()])
    assert told.tally["silent"] == 0, "a stream that broke off looked whole"
    under_way = [answer for answer in told.answers if answer["from"] < killed_at < answer["to"]]
    assert {answer["ended"] for answer in under_way} > {"whole"}, "both servers had streams"
    assert not [answer for answer in told.lost() if answer not in under_way], "a later request was lost"
    assert not [answer for answer in told.lost() if answer["request"] and answer["request"] in log]


def test_the_autoscaler_follows_the_queue(node: Node, release: Release, folder: Path) -> None:
    """One server works on one request at a time, so that the others wait."""
    node.serve_metrics()
    scaled = {
        "autoscaling": {"kind": "hpa", "minReplicas": 1, "maxReplicas": 2, "queueDepth": 2,
                        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 15}}},
    }  # fmt: skip
    release.upgrade(
        tiny(folder, **scaled) | {"settings": {"num_parallel": 1, "keep_alive": -1, "log_format": "json"}}
    )

    def replicas() -> int:
        return int(node.get("deployment", "caravan-tiny")["spec"]["replicas"])

    eventually(lambda: replicas() == 1, ROLLOUT_S)
    began = time.monotonic()
    with streams(release.url, 12, LONG) as told:
        eventually(lambda: replicas() == 2, ROLLOUT_S)
        grown_s = time.monotonic() - began
        eventually(lambda: len(servers(node)) == 2, ROLLOUT_S)
    began = time.monotonic()
    eventually(lambda: replicas() == 1, ROLLOUT_S)
    print(f"1 to 2 after {grown_s:.0f} s, back after {time.monotonic() - began:.0f} s, {dict(told.tally)}")
    assert told.lost() == []


def test_the_bundled_model_on_a_claim_that_a_job_fills(node: Node, release: Release, folder: Path) -> None:
    """The Job converts a file that the volume has: this cluster has no way out."""
    release.uninstall()
    volume = folder / "volume"
    file = bundled(CACHE / "models")
    (volume / "bundled").mkdir(parents=True)
    shutil.copy(file, volume / "bundled" / file.name)
    for path in (volume, *volume.rglob("*")):
        os.chown(path, OWNER, OWNER)
    node.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "models"},
            "spec": {
                "capacity": {"storage": "10Gi"},
                "accessModes": ["ReadWriteMany"],
                "hostPath": {"path": str(volume)},
            },
        }
    )
    given = values()
    given["modelDefaults"]["cache"] |= {"mode": "shared"}
    given["gateway"]["replicas"] = 1
    demo = Release(node, "demo-caravan", folder)
    demo.upgrade(given)
    job = node.get("jobs")["items"][0]["metadata"]["name"]
    log = node.kubectl("logs", f"job/{job}")
    assert "smollm2:135m is ready" in log
    answer = chat(demo.url, "smollm2:135m", [{"role": "user", "content": "What is the capital of France?"}])
    print(log, answer)
    assert "Paris" in answer
    assert "Succeeded" in demo.test()
    loads(node, demo, given)
    demo.uninstall()


def loads(node: Node, demo: Release, given: dict[str, Any]) -> None:
    """The chart's own load test: its Job is its verdict."""
    repository, tag = build("loadtest").rsplit(":", 1)
    load = {
        "enabled": True,
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "workers": 1,
        "options": {
            "users": 2,
            "run-time": 30,
            "mix": "chat=3,generate=1",
            "scale": 0.1,
            "thresholds": "errors<=0",
        },
        "resources": SMALL,
    }
    demo.upgrade(given | {"loadtest": load})
    (master,) = (
        job["metadata"]["name"]
        for job in node.get("jobs")["items"]
        if job["metadata"]["labels"]["app.kubernetes.io/component"] == "loadtest-master"
    )

    def ended() -> bool:
        status = node.get("job", master)["status"]
        return bool(status.get("succeeded") or status.get("failed"))

    eventually(ended, ROLLOUT_S)
    log = node.kubectl("logs", f"job/{master}")
    print(log)
    assert node.get("job", master)["status"].get("succeeded"), log
    assert "chat" in log
