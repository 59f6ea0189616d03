"""What is tried elsewhere, and what is let go (row C7)."""

import asyncio
import re
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from starlette.responses import Response

from app.api.ollama.failure import failure
from app.core.errors import Draining
from harness.envoy import HOST, gateway, rendered
from harness.fake_model import fake_model
from harness.ports import free_port
from tests.e2e.fake_site import fake_site
from tests.gateway.conftest import OPEN, Cluster, engine
from tests.observability.promql import GATEWAY, TARGET_LABELS, exported, expressions, needs

WAIT_S = 20.0
CHECK_S = 1.0
"""How often the gateway asks a replica whether it is ready."""
HI = [{"role": "user", "content": "Hi"}]


@contextmanager
def stopping() -> Generator[tuple[int, list[str]]]:
    """A server that refuses all work as one that stops does, while its checks still say that it is ready: its
    port, and what it has refused."""
    status, headers, body = failure(Draining())
    refusal, refused = Response(body, status, headers), list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            refused.append(self.path)
            self.send_response(refusal.status_code)
            for name, value in refusal.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(refusal.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], refused
        finally:
            server.shutdown()
            thread.join()


def values(**changes: Any) -> dict[str, Any]:
    return {"models": [{"name": "qwen3", "source": "x/qwen3"}], "gateway": changes}


async def at_once(cluster: Cluster, count: int, **asked: Any) -> list[httpx.Response]:
    body = {"messages": HI, "stream": False, **asked}
    async with httpx.AsyncClient(base_url=cluster.gateway.url, timeout=WAIT_S) as client:
        return await asyncio.gather(*(client.post("/api/chat", json=body) for _ in range(count)))


async def test_a_full_queue_is_no_refusal_while_another_replica_has_room(cluster: Cluster) -> None:
    """All have one hash, and one replica holds four at most."""
    await at_once(cluster, 1, model="narrow")
    answers = await at_once(cluster, 6, model="narrow")
    assert [answer.status_code for answer in answers] == [200] * 6


async def test_where_all_queues_are_full_the_servers_own_refusal_is_passed_on(cluster: Cluster) -> None:
    answers = await at_once(cluster, 16, model="narrow")
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) >= 8
    assert {(answer.status_code, answer.json()["error"]) for answer in refused} == {
        (503, "server busy, please try again.  maximum pending requests exceeded")
    }


def test_a_client_that_leaves_ends_its_request_on_the_replica(cluster: Cluster) -> None:
    with cluster.client.stream("POST", "/api/chat", json={"model": "llama", "messages": HI}) as answer:
        lines = answer.iter_lines()  # Its end would be the answer's, so it is held.
        next(lines)
        assert cluster.other.running == 1
    deadline = time.monotonic() + WAIT_S
    while cluster.other.running:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (engine,) = cluster.other.engines
    assert engine.asked[-1].run.usage.output_tokens < 20


def test_metrics_are_there_and_the_admin_interface_is_not(cluster: Cluster) -> None:
    """The port that Prometheus reads passes two paths on; those that change Envoy are not among them."""
    port = f"http://127.0.0.1:{cluster.gateway.metrics}"
    assert "envoy_cluster_upstream_rq_total" in httpx.get(f"{port}/stats/prometheus").text
    assert httpx.get(f"{port}/live").status_code == 200
    for path in ("/config_dump", "/clusters", "/"):
        assert httpx.get(port + path).status_code == 404
    assert httpx.post(f"{port}/quitquitquit").status_code == 404


def test_what_alerts_and_the_dashboard_ask_of_a_gateway_is_there(cluster: Cluster) -> None:
    assert cluster.chat().status_code == 200
    series = exported(httpx.get(f"http://{HOST}:{cluster.gateway.metrics}/stats/prometheus").text)
    series |= {name.removesuffix("_total"): labels for name, labels in series.items()}  # as Envoy has them
    asked = [need for expr in expressions() for need in needs(expr) if need.metric.startswith(GATEWAY)]
    assert {need.metric for need in asked} >= {
        "envoy_cluster_membership_healthy",
        "envoy_cluster_upstream_rq",
    }
    assert [
        need for need in asked if need.labels - series.get(need.metric, frozenset()) - TARGET_LABELS
    ] == []


def test_a_replica_that_stops_is_asked_no_more_after_its_first_refusal(tmp_path: Path) -> None:
    """It is until the next check that says it is ready, which of a server that really stops none does."""
    with (
        stopping() as (port, refused),
        fake_site(fake_model("qwen3"), **OPEN, engine=partial(engine, threading.Event())) as other,
        gateway(values(), {"qwen3": [port, other.port]}, free_port(), tmp_path) as made,
        httpx.Client(base_url=made.url, timeout=WAIT_S) as client,
    ):
        begun = time.monotonic()
        for number in range(60):
            messages = [{"role": "user", "content": f"{number}"}]
            asked = {"model": "qwen3", "messages": messages, "options": {"num_predict": 1}, "stream": False}
            assert client.post("/api/chat", json=asked).status_code == 200
        assert 0 < len(refused) <= 2 + (time.monotonic() - begun) / CHECK_S


def test_what_a_replica_says_to_the_gateway_is_not_passed_on(tmp_path: Path) -> None:
    with (
        stopping() as (port, refused),
        gateway(values(retries=0), {"qwen3": [port]}, free_port(), tmp_path) as made,
    ):
        answer = httpx.post(f"{made.url}/api/chat", json={"model": "qwen3", "messages": HI})
        assert (answer.status_code, answer.json()) == (503, {"error": "the server is shutting down"})
        assert "x-envoy-immediate-health-check-fail" not in answer.headers
        assert refused == ["/api/chat"]


def test_where_nobody_is_to_wait_a_model_without_a_replica_is_refused_at_once(tmp_path: Path) -> None:
    assert "filters.http.fault" not in rendered(values(waitSeconds=0), tmp_path)["envoy.yaml"]
    with gateway(values(waitSeconds=0), {"qwen3": []}, free_port(), tmp_path) as made:
        answer = httpx.post(f"{made.url}/api/chat", json={"model": "qwen3", "messages": HI}, timeout=WAIT_S)
        metrics = httpx.get(f"http://{HOST}:{made.metrics}/stats/prometheus").text
    assert answer.status_code == 503
    assert answer.json() == {"error": "no replica of this model answers, please try again"}
    # What the alert and the panel go by: the waiting place alone is left, and the 503 is the model's.
    assert re.search(r'membership_healthy\{envoy_cluster_name="model-qwen3"\} 1$', metrics, re.MULTILINE)
    refused = 'envoy_response_code="503",envoy_cluster_name="model-qwen3"} 1'
    assert f"envoy_cluster_upstream_rq{{{refused}" in metrics
