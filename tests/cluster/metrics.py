"""What an autoscaler asks for metrics of pods, answered from the pods' own /metrics.

Stands where Prometheus and its adapter stand in production: `custom.metrics.k8s.io` (a value for each pod)
and `external.metrics.k8s.io` (their sum). `python -m tests.cluster.metrics API TOKEN ADDRESS CERTIFICATE KEY`
"""

import json
import ssl
import sys
import urllib.request
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.names import ask

PORT = 6444
GROUPS = ("custom.metrics.k8s.io", "external.metrics.k8s.io")
SERVED = "11434"


def series(address: str, name: str) -> float:
    """The sum of a metric's series in what one pod shows."""
    with urllib.request.urlopen(f"http://{address}:{SERVED}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)


class Metrics(BaseHTTPRequestHandler):
    """`/apis/GROUP/VERSION/namespaces/NAMESPACE/[pods/*/]METRIC?labelSelector=...`"""

    api, token = "", ""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        parts = address.path.strip("/").split("/")
        if len(parts) < 5:
            self._send(self._discovery(parts))
            return
        _, group, version, _, namespace, *rest = parts
        query = parse_qs(address.query)
        selector = query.get("labelSelector", [""])[0] if group == GROUPS[0] else ""
        values = self._values(namespace, rest[-1], selector)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if group == GROUPS[0]:
            items = [
                {
                    "describedObject": {
                        "kind": "Pod",
                        "namespace": namespace,
                        "name": pod,
                        "apiVersion": "v1",
                    },
                    "metricName": rest[-1],
                    "timestamp": now,
                    "value": f"{round(value * 1000)}m",
                }
                for pod, value in values.items()
            ]
            kind = "MetricValueList"
        else:
            total = f"{round(sum(values.values()) * 1000)}m"
            items = [{"metricName": rest[-1], "metricLabels": {}, "timestamp": now, "value": total}]
            kind = "ExternalMetricValueList"
        self._send({"kind": kind, "apiVersion": f"{group}/{version}", "metadata": {}, "items": items})

    def _values(self, namespace: str, metric: str, selector: str) -> dict[str, float]:
        path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={quote(selector)}"
        found: dict[str, float] = {}
        for pod in ask(self.api, self.token, path)["items"]:
            statuses = pod["status"].get("containerStatuses", ())
            if any(status["ready"] for status in statuses) and pod["status"].get("podIP"):
                try:
                    found[pod["metadata"]["name"]] = series(pod["status"]["podIP"], metric)
                except OSError:
                    continue
        return found

    def _discovery(self, parts: list[str]) -> dict[str, Any]:
        """What the API server asks to learn that the group is there."""
        group = parts[1] if len(parts) > 1 else GROUPS[0]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group}/v1beta1",
            "resources": [],
        }

    def _send(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(api: str, token: str, address: str, certificate: str, key: str) -> None:
    Metrics.api, Metrics.token = api, token
    server = ThreadingHTTPServer((address, PORT), Metrics)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


def registration(address: str) -> list[dict[str, Any]]:
    """The objects that have the API server pass both groups on to it."""
    name, port = "pod-metrics", 443
    where = {"name": name, "namespace": "kube-system"}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": where} | {
        "spec": {"ports": [{"port": port, "targetPort": PORT, "protocol": "TCP"}]}
    }
    endpoints = {"apiVersion": "v1", "kind": "Endpoints", "metadata": where} | {
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"port": PORT, "protocol": "TCP"}]}]
    }
    apis = [
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1beta1.{group}"},
            "spec": {
                "group": group,
                "version": "v1beta1",
                "service": where | {"port": port},
                "insecureSkipTLSVerify": True,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        }
        for group in GROUPS
    ]
    return [service, endpoints, *apis]


if __name__ == "__main__":
    main(*sys.argv[1:])
