"""A Kubernetes of one node on this machine: control plane, kubelet, containerd, service network and names.

Everything runs in a network namespace of its own and below one folder; all of it is ended by process id.
"""

import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import metrics, network
from tests.cluster.network import NODE, NODE_ADDRESS, within
from tests.cluster.processes import Processes

API = f"https://{NODE_ADDRESS}:6443"
PODS, SERVICES = "10.88.0.0/16", "10.96.0.0/16"
PAUSE = "localhost/pause:1"
NAME = "node"
READY_S = 180.0
COMMAND_S = 1200.0

CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{folder}/run/containerd"
[grpc]
  address = "{folder}/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"""

CNI = {
    "cniVersion": "0.4.0",
    "name": "caravan",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}

KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "cgroupDriver": "cgroupfs",
    "enforceNodeAllocatable": [],
    "failSwapOn": False,
    "resolvConf": "",
    "clusterDNS": [NODE_ADDRESS],
    "clusterDomain": "cluster.local",
    "evictionHard": {"memory.available": "100Mi"},
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
}


class Node:
    """A running cluster of one node. `programs` is where Kubernetes was built."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self._programs = programs
        self._token = secrets.token_hex(16)
        self._processes = Processes(folder)
        self._others = network.names()

    def start(self) -> None:
        """Return once the node is ready to run pods."""
        network.up()
        self._write()
        self._control_plane()
        self._workers()
        eventually(self._ready, READY_S, self._processes.check)

    def stop(self) -> None:
        self._processes.stop()
        for shim in _shims(self.folder):
            subprocess.run(["kill", "-9", shim], check=False)
        _kill_pods()
        _unmount(self.folder)
        _remove_cgroups()
        for pod in network.names() - self._others - {network.NODE, network.OUTSIDE}:
            network.ip("netns", "delete", pod)
        network.down()

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        """What kubectl prints; `given` is its standard input. Fails if a part of the cluster has ended."""
        self._processes.check()
        done = subprocess.run(
            [*within(NODE), "kubectl", "--kubeconfig", str(self.kubeconfig), *arguments],
            input=given, capture_output=True, text=True, timeout=COMMAND_S, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """What kubectl knows of an object or of a list of them."""
        return json.loads(self.kubectl("get", "--output", "json", *arguments))

    def told(self) -> str:
        """The pods and the latest events, for who looks into a failure."""
        pods = self.kubectl("get", "pods", "--all-namespaces", "--output", "wide", check=False)
        events = self.kubectl("get", "events", "--sort-by", ".lastTimestamp", check=False)
        return "\n".join(["", pods, *events.splitlines()[-20:]])

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "--filename", "-", given=yaml.safe_dump_all(objects))

    def load(self, archive: Path) -> None:
        """Give the node the images of an archive; it pulls none."""
        self._ctr("images", "import", "--no-unpack", str(archive))

    def kill(self, pod: str, container: str) -> None:
        """Kill every process of a container at once, as the kernel does where memory runs out."""
        statuses = self.get("pod", pod)["status"]["containerStatuses"]
        (running,) = (status["containerID"] for status in statuses if status["name"] == container)
        self._ctr("tasks", "kill", "--signal", "SIGKILL", "--all", running.removeprefix("containerd://"))

    def _ctr(self, *arguments: str) -> None:
        socket = f"{self.folder}/run/containerd.sock"
        command = [*within(NODE), "ctr", "--address", socket, "--namespace", "k8s.io", *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=900)

    def _ready(self) -> bool:
        told = self.kubectl(
            "get", "nodes", "--output", "jsonpath={..conditions[?(@.type=='Ready')].status}", check=False
        )
        return told == "True"

    def _write(self) -> None:
        """The files that the programs read."""
        folder = self.folder
        for name in ("cni", "run", "certificates", "etcd", "kubelet"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "tokens.csv").write_text(f'{self._token},admin,admin,"system:masters"\n')
        (folder / "cni/caravan.conflist").write_text(json.dumps(CNI))
        (folder / "kubelet.yaml").write_text(yaml.safe_dump(KUBELET))
        (folder / "containerd.toml").write_text(CONTAINERD.format(folder=folder, pause=PAUSE))
        (folder / "proxy.yaml").write_text(yaml.safe_dump(self._proxy()))
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": {"server": API, "insecure-skip-tls-verify": True}}],
                    "users": [{"name": "u", "user": {"token": self._token}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        key = folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)

    def _proxy(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": PODS,
            "hostnameOverride": NAME,
            "clientConnection": {"kubeconfig": str(self.kubeconfig)},
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "iptables": {"masqueradeAll": True},
        }

    def _control_plane(self) -> None:
        folder, key = self.folder, str(self.folder / "accounts.key")
        self._run(
            *("etcd", "--data-dir", f"{folder}/etcd", "--unsafe-no-fsync"),
            *(
                "--listen-client-urls",
                "http://127.0.0.1:2379",
                "--advertise-client-urls",
                "http://127.0.0.1:2379",
            ),
            *("--listen-peer-urls", "http://127.0.0.1:2380"),
        )
        self._run(
            *("kube-apiserver", "--etcd-servers", "http://127.0.0.1:2379", "--secure-port", "6443"),
            *("--advertise-address", NODE_ADDRESS, "--service-cluster-ip-range", SERVICES),
            *("--cert-dir", f"{folder}/certificates", "--token-auth-file", f"{folder}/tokens.csv"),
            *("--authorization-mode", "RBAC", "--allow-privileged=true"),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *("--service-account-key-file", key, "--service-account-signing-key-file", key),
            *("--kubelet-preferred-address-types", "InternalIP"),
        )
        eventually(
            lambda: self.kubectl("get", "--raw", "/readyz", check=False) == "ok",
            READY_S,
            self._processes.check,
        )
        # One of each: a lease that a busy machine renews too late would end them.
        as_admin = ("--kubeconfig", str(self.kubeconfig), "--leader-elect=false")
        self._run(
            *("kube-controller-manager", *as_admin, "--service-account-private-key-file", key),
            *("--use-service-account-credentials", "--horizontal-pod-autoscaler-sync-period", "5s"),
            *("--horizontal-pod-autoscaler-downscale-stabilization", "15s"),
            *("--cert-dir", f"{folder}/certificates"),
        )
        self._run("kube-scheduler", *as_admin, "--cert-dir", f"{folder}/certificates")

    def _workers(self) -> None:
        folder = self.folder
        self._run("containerd", "--config", f"{folder}/containerd.toml")
        eventually((folder / "run/containerd.sock").exists, READY_S, self._processes.check)
        self._run(
            *("kubelet", "--config", f"{folder}/kubelet.yaml", "--kubeconfig", str(self.kubeconfig)),
            *("--root-dir", f"{folder}/kubelet", "--cert-dir", f"{folder}/certificates"),
            *("--hostname-override", NAME, "--node-ip", NODE_ADDRESS),
            *("--container-runtime", "remote"),
            *("--container-runtime-endpoint", f"unix://{folder}/run/containerd.sock"),
            *("--network-plugin", "cni"),
        )
        self._run("kube-proxy", "--config", f"{folder}/proxy.yaml")
        self._processes.start(
            "dns",
            *(*within(NODE), sys.executable, "-m", "tests.cluster.names", API, self._token, NODE_ADDRESS),
        )

    def serve_metrics(self) -> None:
        """Let autoscalers ask for the metrics of pods."""
        identity = [f"{self.folder}/certificates/apiserver.{kind}" for kind in ("crt", "key")]
        program = (sys.executable, "-m", "tests.cluster.metrics", API, self._token, NODE_ADDRESS)
        self._processes.start("metrics", *within(NODE), *program, *identity)
        self.apply(*metrics.registration(NODE_ADDRESS))

    def _run(self, program: str, *arguments: str) -> None:
        built = self._programs / program
        found = str(built) if built.exists() else shutil.which(program)
        assert found, f"{program} is not here"
        self._processes.start(program, *within(NODE), found, *arguments)


@contextmanager
def cluster(folder: Path, programs: Path) -> Generator[Node]:
    node = Node(folder, programs)
    try:
        node.start()
        yield node
    finally:
        node.stop()


def eventually(
    holds: Callable[[], bool], within_s: float, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Wait until something holds, and fail where it does not in time."""
    deadline = time.monotonic() + within_s
    while not holds():
        meanwhile()
        assert time.monotonic() < deadline, f"{holds} does not hold after {within_s:.0f} s"
        time.sleep(0.5)


def _shims(folder: Path) -> list[str]:
    """Processes of containers that outlive containerd: those whose command names our socket."""
    found: list[str] = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"containerd-shim-runc-v2") and str(folder).encode() in b" ".join(words):
            found.append(command.parent.name)
    return found


def _unmount(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in sorted(mounts, reverse=True):
        if place.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)


def _kill_pods() -> None:
    """What runs in containers that are left does not end with its shim."""

    def gone() -> bool:
        groups = Path("/sys/fs/cgroup").glob("*/kubepods/**/cgroup.procs")
        pids = {pid for listed in groups for pid in listed.read_text().split()}
        if pids:
            subprocess.run(["kill", "-9", *pids], check=False, capture_output=True)
        return not pids

    eventually(gone, READY_S)


def _remove_cgroups() -> None:
    for pods in Path("/sys/fs/cgroup").glob("*/kubepods"):
        for group in sorted((path for path in pods.rglob("*") if path.is_dir()), reverse=True):
            group.rmdir()
        pods.rmdir()
