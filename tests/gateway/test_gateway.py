"""The gateway that the chart renders, as a real Envoy in front of real servers over scripted engines (C7)."""

import json
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import httpx
import ollama
import pytest

from app.engine.fake import FakeEngine, Reply
from tests.e2e.fake_site import FakeSite, fake_model, fake_site
from tests.gateway.envoy import HOST, Gateway, gateway

MIB = 1 << 20
TOKEN_S = 0.02
WORDS = tuple(f" {n}" for n in range(20))
QUEUE = 1
VALUES: dict[str, Any] = {
    "models": [
        {"name": "qwen3", "source": "x/qwen3", "aliases": [{"name": "pirate", "system": "Arr."}]},
        {"name": "llama", "source": "x/llama"},
    ],
    "gateway": {"maxBodyBytes": MIB},
}


@dataclass
class Cluster:
    """Two replicas of `qwen3` (`pirate` is the same), one of `llama`, the directory and the gateway."""

    gateway: Gateway
    client: httpx.Client
    replicas: list[FakeSite]
    other: FakeSite

    def chat(self, text: str = "Hi", model: str = "qwen3", **more: Any) -> httpx.Response:
        asked = {"model": model, "messages": [{"role": "user", "content": text}], "stream": False, **more}
        return self.client.post("/api/chat", json=asked)

    def served(self) -> list[int]:
        """Requests that each replica has had."""
        return [sum(len(engine.asked) for engine in site.engines) for site in self.replicas]


def engine() -> FakeEngine:
    return FakeEngine(default=Reply(WORDS), delay_s=TOKEN_S)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with ExitStack() as stack:

        def site(*names: str) -> FakeSite:
            models = (fake_model(name) for name in names)
            return stack.enter_context(fake_site(*models, host="0.0.0.0", engine=engine, max_body_bytes=MIB))

        replicas, other = [site("qwen3", "pirate") for _ in range(2)], site("llama")
        peers = [f"http://{HOST}:{each.port}" for each in (*replicas, other)]
        directory = stack.enter_context(fake_site(host="0.0.0.0", peers=peers, max_body_bytes=MIB))
        servers = {"qwen3": [each.port for each in replicas], "llama": [other.port]}
        made = stack.enter_context(
            gateway(VALUES, servers, directory.port, tmp_path_factory.mktemp("gateway"))
        )
        client = stack.enter_context(httpx.Client(base_url=made.url, timeout=30))
        yield Cluster(made, client, replicas, other)


def test_each_model_is_reached_by_all_its_names(cluster: Cluster) -> None:
    for name in ("qwen3", "QWEN3:latest", "pirate", "llama"):
        answer = cluster.chat(model=name)
        assert answer.status_code == 200, answer.text
        assert answer.json()["message"]["content"] == "".join(WORDS)


def test_the_official_client_sees_one_server(cluster: Cluster) -> None:
    with closing(ollama.Client(cluster.gateway.url)) as client:
        assert {row.model for row in client.list().models} == {
            "qwen3:latest",
            "pirate:latest",
            "llama:latest",
        }
        parts = list(client.chat("qwen3", [{"role": "user", "content": "Hi"}], stream=True))
        assert "".join(part.message.content or "" for part in parts) == "".join(WORDS)
        assert "qwen3:latest" in {row.model for row in client.ps().models}
        assert client.show("llama").details is not None


def test_what_names_no_model_is_answered_as_by_a_server(cluster: Cluster) -> None:
    answer = cluster.chat(model="nobody")
    assert (answer.status_code, answer.json()) == (404, {"error": "model 'nobody' not found"})
    assert cluster.client.post("/api/chat", content=b"{").status_code == 400
    assert cluster.client.get("/").text == "Ollama is running"
    assert cluster.client.head("/api/tags").status_code == 200


def test_a_body_that_is_too_large_gets_413_in_json(cluster: Cluster) -> None:
    answer = cluster.chat("x" * 2 * MIB)
    assert answer.status_code == 413
    assert answer.json() == {"error": f"request body is too large: the limit is {MIB} bytes"}
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


def test_a_stream_comes_token_by_token(cluster: Cluster) -> None:
    arrivals = []
    asked = {"model": "qwen3", "messages": [{"role": "user", "content": "Hi"}]}
    with cluster.client.stream("POST", "/api/chat", json=asked) as answer:
        for line in answer.iter_lines():
            arrivals.append(time.monotonic())
            assert json.loads(line)
    assert len(arrivals) == len(WORDS) + 1
    assert arrivals[-1] - arrivals[0] > 0.5 * TOKEN_S * len(WORDS)
