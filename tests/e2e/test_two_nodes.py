"""A model over two nodes, both on this machine: a server leads, `caravan worker` has the other rank."""

import json
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from harness.models.build import build
from harness.models.catalogue import GREETING
from harness.ports import free_port
from harness.process import offline, running, wait_ready

pytestmark = pytest.mark.engine


@dataclass(frozen=True, slots=True)
class Nodes:
    url: str
    leader: psutil.Process
    worker: psutil.Process
    said: Path


@pytest.fixture
def nodes(tmp_path: Path) -> Generator[Nodes]:
    engine = {
        **{"nnodes": 2, "node_rank": 0, "master_addr": "127.0.0.1", "master_port": free_port()},
        **{"tensor_parallel_size": 2, "distributed_executor_backend": "mp"},
        **{"dtype": "float32", "kv_cache_memory_bytes": 64 << 20},
    }
    config = tmp_path / "caravan.yaml"
    config.write_text(
        yaml.safe_dump({"models": [{"name": "a", "source": str(build("qwen3")), "engine": engine}]})
    )
    # Each node says by which of its addresses the other reaches it.
    environment = offline() | {"VLLM_HOST_IP": "127.0.0.1", "CARAVAN_LOG_FORMAT": "text"}
    port, program = free_port(), [sys.executable, "-m", "app.cli"]
    serve = [*program, "serve", "--port", str(port), "--config", str(config)]
    work = [*program, "worker", "--node-rank", "1", "--config", str(config)]
    said = tmp_path / "worker.log"
    with (
        running(serve, tmp_path / "leader.log", environment) as leader,
        running(work, said, environment) as worker,
    ):
        url = f"http://127.0.0.1:{port}"
        wait_ready(f"{url}/readyz", leader)
        yield Nodes(url, leader, worker, said)


def test_ranks_on_two_nodes_answer_as_one_and_end_with_their_leader(nodes: Nodes) -> None:
    body = {"model": "a", "messages": [{"role": "user", "content": "Hello"}], "think": False}
    answer = httpx.post(
        f"{nodes.url}/api/chat", json=body | {"stream": False, "options": {"temperature": 0}}, timeout=60
    )
    assert answer.json()["message"]["content"] == GREETING, json.dumps(answer.json())
    ranks = [each for each in nodes.worker.children(recursive=True) if "Worker" in each.name()]
    assert ranks, "one of the two is there"
    nodes.leader.kill()
    assert nodes.worker.wait(20) == 1
    assert "the leader has ended, and all its nodes are to be started anew" in nodes.said.read_text()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive
