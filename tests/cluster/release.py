"""The chart in the cluster, by Helm itself.

Kubernetes 1.20 knows two of the chart's kinds by an older version only, which a post-renderer writes instead.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from scripts.helm import helm
from tests.cluster.network import NODE, within
from tests.cluster.node import Node
from tests.deploy.container import ROOT

CHART = ROOT / "deploy/helm/caravan"
OLDER = {"policy/v1": "policy/v1beta1", "autoscaling/v2": "autoscaling/v2beta2"}
WAIT_S = 900


class Release:
    """An installation of the chart under a name."""

    def __init__(self, node: Node, name: str, scratch: Path) -> None:
        self._node, self.name, self._scratch = node, name, scratch
        self._chart = scratch / "chart"
        if not self._chart.exists():
            shutil.copytree(CHART, self._chart)
            about = self._chart / "Chart.yaml"
            about.write_text(about.read_text().replace(">=1.27.0-0", ">=1.20.0-0"))
            older = scratch / "older"
            edits = "".join(f" -e 's#^apiVersion: {new}$#apiVersion: {old}#'" for new, old in OLDER.items())
            older.write_text(f"#!/bin/sh\nexec sed{edits}\n")
            older.chmod(0o755)

    def upgrade(self, values: dict[str, Any]) -> None:
        """Install the chart, or change what is installed, and wait until all of it is ready."""
        file = self._scratch / f"{self.name}.yaml"
        file.write_text(yaml.safe_dump(values))
        self._helm(
            *("upgrade", "--install", self.name, str(self._chart), "--values", str(file)),
            *("--post-renderer", str(self._scratch / "older"), "--wait", "--timeout", f"{WAIT_S}s"),
        )

    def test(self) -> str:
        """What the chart's own test says."""
        return self._helm("test", self.name, "--logs", "--timeout", f"{WAIT_S}s")

    def uninstall(self) -> None:
        self._helm("uninstall", self.name, "--wait", "--timeout", f"{WAIT_S}s")

    @property
    def url(self) -> str:
        """Where the gateway is found from outside the cluster."""
        spec = self._node.get("service", self.name)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def _helm(self, *arguments: str) -> str:
        command = [*within(NODE), str(helm(3)), "--kubeconfig", str(self._node.kubeconfig), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S + 60, check=False)
        if done.returncode != 0:
            raise AssertionError(f"helm {arguments[0]}: {done.stdout}{done.stderr}{self._node.told()}")
        return done.stdout
