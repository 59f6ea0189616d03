"""A real Kubernetes node on this machine, and what operating Caravan in it does to its clients (rows C2, C7).

The node is of Kubernetes 1.20, the newest that Debian 12 has sources of.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.images import archives
from tests.cluster.network import OUTSIDE, within
from tests.cluster.node import Node, cluster, eventually
from tests.cluster.traffic import streams
from tests.deploy.container import CACHE, ROOT, run
from tests.models.build import build
from tests.models.catalogue import case

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
ROLLOUT_S = 600
HELLO, STORY = case("llama", "hello"), case("llama", "story")
LONG: dict[str, Any] = {
    "model": "tiny",
    "messages": list(STORY.messages),
    "options": {"temperature": 0},
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    run(str(ROOT / "scripts/debian.sh"), *PACKAGES, timeout_s=ROLLOUT_S)
    run(str(ROOT / "tests/cluster/kubernetes.sh"), str(PROGRAMS), timeout_s=5400)
    folder = tmp_path_factory.mktemp("node")
    with cluster(folder, PROGRAMS) as running:
        for archive in archives(folder):
            running.load(archive)
            archive.unlink()
        yield running


@pytest.fixture(scope="module")
def url(node: Node) -> str:
    """Where a client outside finds the servers, two of them, installed and ready."""
    text = Path(__file__).with_name("plain.yaml").read_text()
    node.kubectl("apply", "--filename", "-", given=text.replace("MODELS", str(build("llama").parent)))
    node.kubectl("rollout", "status", "deployment/caravan", f"--timeout={ROLLOUT_S}s")
    return f"http://{node.get('service', 'caravan')['spec']['clusterIP']}:11434"


def pods(node: Node) -> list[str]:
    """Names of the servers' pods that are ready and stay."""
    items = node.get("pods", "--selector", "app=caravan")["items"]
    return [
        pod["metadata"]["name"]
        for pod in items
        if "deletionTimestamp" not in pod["metadata"]
        and any(status["ready"] for status in pod["status"].get("containerStatuses", ()))
    ]


def test_a_chat_from_outside_by_the_official_client(url: str) -> None:
    code = (
        "import json, sys, ollama\n"
        "client, messages = ollama.Client(sys.argv[1]), json.loads(sys.argv[2])\n"
        "print(client.chat('tiny', messages, options={'temperature': 0}).message.content)"
    )
    command = [*within(OUTSIDE), sys.executable, "-c", code, url, json.dumps(HELLO.messages)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == HELLO.content


def test_a_rolling_restart_loses_nothing(node: Node, url: str) -> None:
    before = set(pods(node))
    with streams(url, 4, LONG) as told:
        node.kubectl("rollout", "restart", "deployment/caravan")
        node.kubectl("rollout", "status", "deployment/caravan", f"--timeout={ROLLOUT_S}s")
        eventually(lambda: len(pods(node)) == 2, ROLLOUT_S)
        time.sleep(5)
    assert set(pods(node)).isdisjoint(before)
    print(dict(told.tally))
    assert told.lost() == []
    assert told.tally["whole"] > 20


def test_a_drain_waits_for_the_budget(node: Node, url: str) -> None:
    before = set(pods(node))
    with streams(url, 2, LONG) as told:
        drained = node.kubectl(
            "drain", "node", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=40s", check=False
        )
        left = set(pods(node)) & before
        node.kubectl("uncordon", "node")
        eventually(lambda: len(pods(node)) == 2, ROLLOUT_S)
    print(drained, dict(told.tally))
    assert len(left) == 1, "one pod may go, the other stays until the first has been replaced"
    assert told.lost() == []


def test_a_pod_that_is_killed_takes_only_its_own_streams_with_it(node: Node, url: str) -> None:
    victim, survivor = pods(node)
    with streams(url, 6, LONG) as told:
        node.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        eventually(lambda: len(pods(node)) == 2, ROLLOUT_S)
    log = node.kubectl("logs", survivor)
    print(dict(told.tally), [answer["why"] for answer in told.lost()])
    assert told.tally["silent"] == 0, "a stream that broke off looked whole"
    lost = told.lost()
    assert lost, "the pod had no stream"
    assert not [answer for answer in lost if answer["request"] and answer["request"] in log]
