"""Liveness, and how models are found by name: points 1 to 4 and 46 to 60, on the real server."""

import re
from typing import Any

import httpx
import pytest

from tests.e2e.ollama_lines import JSON, generate, lines

pytestmark = pytest.mark.engine


def refused(answer: httpx.Response, status: int, error: str) -> None:
    assert (answer.status_code, answer.json()) == (status, {"error": error})
    assert answer.headers["content-type"] == JSON


@pytest.mark.point(1, 2)
def test_the_liveness_text(client: httpx.Client) -> None:
    answer, head = client.get("/"), client.head("/")
    assert (answer.status_code, answer.content) == (200, b"Ollama is running")
    assert (head.status_code, head.content) == (200, b"")
    for each in (answer, head):
        assert each.headers["content-type"] == "text/plain; charset=utf-8"
        assert each.headers["content-length"] == "17"


@pytest.mark.point(3)
def test_the_version(client: httpx.Client) -> None:
    answer = client.get("/api/version")
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON)
    assert re.fullmatch(r'\{"version":"\d+\.\d+\.\d+"\}', answer.text)


@pytest.mark.point(4)
@pytest.mark.parametrize("path", ["/api/version", "/api/tags"])
def test_head(client: httpx.Client, path: str) -> None:
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == client.get(path).headers["content-length"]


@pytest.mark.point(53)
def test_the_configured_models_are_not_deleted(client: httpx.Client) -> None:
    answer = client.request("DELETE", "/api/delete", json={"model": "plain"})
    assert answer.status_code == 403
    assert answer.json()["error"].startswith("the model plain:latest comes from the configuration")
    answer = client.request("DELETE", "/api/delete", json={"model": "bad name"})
    refused(answer, 400, 'name "bad name" is invalid')


@pytest.mark.point(46, 47)
@pytest.mark.parametrize("name", ["", " ", "\n\t"])
def test_no_model(client: httpx.Client, name: str) -> None:
    for path in ("/api/generate", "/api/embed"):
        refused(client.post(path, json={"model": name}), 404, f"model '{name}' not found")
    for path in ("/api/chat", "/api/embeddings", "/api/show"):
        refused(client.post(path, json={"model": name}), 400, "model is required")


@pytest.mark.point(46, 47)
def test_a_model_that_is_not_named(client: httpx.Client) -> None:
    for path in ("/api/generate", "/api/embed"):
        refused(client.post(path, json={}), 404, "model '' not found")
    for path in ("/api/chat", "/api/embeddings", "/api/show"):
        refused(client.post(path, json={}), 400, "model is required")


@pytest.mark.point(48)
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
@pytest.mark.parametrize("name", ["nosuch", "plain:nosuch", "ns/plain", "nosuch:LATEST", " nosuch "])
@pytest.mark.parametrize("stream", [True, False])
def test_an_unknown_model(client: httpx.Client, path: str, name: str, stream: bool) -> None:
    body = {"model": name, "prompt": "x", "messages": [{"role": "user"}], "stream": stream}
    refused(client.post(path, json=body), 404, f"model '{name}' not found")


@pytest.mark.point(49)
@pytest.mark.parametrize(
    ("name", "shown"), [("nosuch", "nosuch"), (" nosuch ", " nosuch "), ("emb:é", None), ("n:1", "n:1")]
)
@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings"])
def test_an_unknown_embedding_model(client: httpx.Client, path: str, name: str, shown: str | None) -> None:
    answer = client.post(path, json={"model": name, "input": "x", "prompt": "x"})
    if shown is None:
        refused(answer, 400, "invalid model name")
    else:
        refused(answer, 404, f'model "{shown}" not found, try pulling it first')


@pytest.mark.point(50, 51)
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("nosuch", "nosuch:latest"),
        ("a/b/nosuch", "a/b/nosuch:latest"),
        ("library/nosuch", "nosuch:latest"),
        ("registry.ollama.ai/library/nosuch:7b", "nosuch:7b"),
        ("PLAIN:nosuch", "plain:nosuch"),
    ],
)
def test_show_of_an_unknown_model(client: httpx.Client, name: str, shown: str) -> None:
    refused(client.post("/api/show", json={"model": name}), 404, f"model '{shown}' not found")
    refused(client.post("/api/show", json={"name": name}), 404, f"model '{shown}' not found")


@pytest.mark.point(52)
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/show"])
@pytest.mark.parametrize(
    "name",
    ["a/b/c/d", "a b", "plain:", "/plain", "n//m", "-plain", ".plain", "m@sha256:0", "m:a:b", "é", "p\0q"],
)
def test_a_name_that_breaks_the_grammar(client: httpx.Client, path: str, name: str) -> None:
    refused(client.post(path, json={"model": name}), 400, "invalid model name")


@pytest.mark.point(54)
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/embed", "/api/show"])
def test_two_source_suffixes(client: httpx.Client, path: str) -> None:
    error = 'use either :local or :cloud, not both: "x:local:cloud"'
    refused(client.post(path, json={"model": "x:local:cloud"}), 400, error)


@pytest.mark.point(59)
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/embed", "/api/embeddings"])
@pytest.mark.parametrize("name", ["x:cloud", "plain:cloud", "x:8b-cloud", "x:8b:CLOUD"])
def test_a_cloud_model(client: httpx.Client, path: str, name: str) -> None:
    error = "ollama cloud is disabled: remote model is unavailable"
    refused(client.post(path, json={"model": name}), 403, error)


@pytest.mark.point(60)
def test_show_of_a_cloud_model(client: httpx.Client) -> None:
    error = "ollama cloud is disabled: remote model details are unavailable"
    refused(client.post("/api/show", json={"model": "x:cloud"}), 403, error)


@pytest.mark.point(58)
@pytest.mark.parametrize("name", ["EMB", "emb:LATEST", "Library/emb"])
def test_embeddings_minds_the_case(client: httpx.Client, name: str) -> None:
    answer = client.post("/api/embeddings", json={"model": name, "prompt": "x"})
    refused(answer, 404, f'model "{name}" not found, try pulling it first')


NAMES = [
    "plain",
    "PLAIN:LATEST",
    "  plain  ",
    "plain:local",
    "Plain:Local",
    "\tplain:latest\n",
    "library/plain",
    "Registry.Ollama.AI/Library/plain",
    "https://registry.ollama.ai/library/plain:latest",
]


@pytest.mark.point(55, 56, 57)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_found_and_echoed_as_sent(client: httpx.Client, name: str) -> None:
    loaded = generate(client, name)
    assert (loaded.status_code, loaded.json()["model"]) == (200, name)
    chat = client.post("/api/chat", json={"model": name}).json()
    assert (chat["model"], chat["done_reason"]) == (name, "load")
    assert client.post("/api/show", json={"model": name}).status_code == 200


@pytest.mark.point(55, 56, 57)
@pytest.mark.parametrize("name", ["PLAIN:LATEST", "  plain  ", "plain:local"])
def test_every_line_echoes_the_name(client: httpx.Client, name: str) -> None:
    options: dict[str, Any] = {"num_predict": 2}
    parts = lines(generate(client, name, prompt="hi", raw=True, options=options))
    assert parts[-1]["eval_count"] == 2
    assert {part["model"] for part in parts} == {name}
