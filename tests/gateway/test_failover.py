"""What is tried elsewhere, and what is let go (C7)."""

import asyncio
import time
from typing import Any

import httpx

from tests.gateway.conftest import Cluster

WAIT_S = 20.0
HI = [{"role": "user", "content": "Hi"}]


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
