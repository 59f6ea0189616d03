"""The gateway that the chart renders: names, lists, errors, streams (row C7)."""

import json
import time
from contextlib import closing

import ollama

from tests.gateway.conftest import MIB, TOKEN_S, WORDS, Cluster


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
