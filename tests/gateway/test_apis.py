"""OpenAI's and Anthropic's APIs through the gateway: routes, lists, errors in each API's words (row C7)."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.envoy import HOST, gateway
from harness.ports import free_port
from tests.gateway.agents import TURNS, claude, codex
from tests.gateway.conftest import MIB, WORDS, Cluster

JSON = "application/json; charset=utf-8"
SAID = "".join(WORDS)
HI = [{"role": "user", "content": "Hi"}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 50},
}
PATHS = [*ASKED, "/v1/messages/count_tokens", "/v1/embeddings", "/v1/responses/compact"]


def told(path: str, answer: httpx.Response) -> str:
    """The text of an error, once its envelope is that of the path's API."""
    document = answer.json()
    assert answer.headers["content-type"] in ("application/json", JSON)
    if path.startswith("/v1/messages"):
        assert document.keys() == {"type", "error", "request_id"}
        assert document["type"] == "error"
        assert document["request_id"] == answer.headers["request-id"] != ""
    else:
        assert document.keys() == {"error"}
        assert document["error"].keys() == {"message", "type", "param", "code"}
    return document["error"]["message"]


READ: dict[str, Callable[[Any], str]] = {
    "/v1/chat/completions": lambda body: body["choices"][0]["message"]["content"],
    "/v1/completions": lambda body: body["choices"][0]["text"],
    "/v1/responses": lambda body: body["output"][0]["content"][0]["text"],
    "/v1/messages": lambda body: body["content"][0]["text"],
}


@pytest.mark.parametrize("path", ASKED)
def test_each_model_answers_on_each_path(path: str, cluster: Cluster) -> None:
    for model in ("qwen3", "PIRATE:latest", "llama"):
        answer = cluster.client.post(path, json={"model": model, **ASKED[path]})
        assert answer.status_code == 200, answer.text
        assert READ[path](answer.json()) == SAID


@pytest.mark.parametrize("path", ASKED)
def test_streams_come_event_by_event(path: str, cluster: Cluster) -> None:
    body = {"model": "qwen3", "stream": True, **ASKED[path]}
    with cluster.client.stream("POST", path, json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        pieces = list(answer.iter_raw())
    assert len(pieces) > len(WORDS) / 2
    assert b"19" in b"".join(pieces)


def test_models_are_those_of_the_whole_cluster(cluster: Cluster) -> None:
    listed = cluster.client.get("/v1/models").json()
    tags = cluster.client.get("/api/tags").json()
    assert [row["id"] for row in listed["data"]] == [row["name"] for row in tags["models"]]
    assert {row["id"] for row in listed["data"]} == {"qwen3:latest", "pirate:latest", "llama:latest"}
    for name in ("llama", "PIRATE", "qwen3%3Alatest"):
        answer = cluster.client.get(f"/v1/models/{name}")
        assert (answer.status_code, answer.json()["object"]) == (200, "model"), answer.text
    missing = cluster.client.get("/v1/models/nobody")
    assert (missing.status_code, told("/v1/models", missing)) == (404, "model 'nobody:latest' not found")


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_model_and_no_json_are_told_in_the_apis_words(path: str, cluster: Cluster) -> None:
    body = ASKED.get(path, {"max_tokens": 5, "input": "Hi", "messages": HI})
    answer = cluster.client.post(path, json={"model": "nobody", **body})
    assert answer.status_code == 404, answer.text
    assert "nobody" in told(path, answer)
    assert answer.json()["error"]["type"] == "not_found_error"
    answer = cluster.client.post(path, content=b"{")
    assert answer.status_code == 400
    assert told(path, answer)
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_too_large_is_told_in_the_apis_words(path: str, cluster: Cluster) -> None:
    answer = cluster.client.post(path, json={"model": "qwen3", "input": "x" * 2 * MIB})
    assert answer.status_code == 413
    assert told(path, answer) == f"request body is too large: the limit is {MIB} bytes"
    kind = "request_too_large" if "messages" in path else "api_error"
    assert answer.json()["error"]["type"] == kind


@pytest.mark.parametrize("path", [*PATHS, "/api/chat"])
def test_an_encoded_body_is_refused_with_what_to_do(path: str, cluster: Cluster) -> None:
    body = gzip.compress(json.dumps({"model": "qwen3", **ASKED.get(path, {})}).encode())
    answer = cluster.client.post(path, content=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"
    text = answer.json()["error"] if path == "/api/chat" else told(path, answer)
    assert "send it without Content-Encoding" in text


def test_an_offer_of_a_websocket_is_declined_as_codex_understands(cluster: Cluster) -> None:
    head = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    answer = cluster.client.get("/v1/responses", headers=head)
    assert answer.status_code == 426
    assert told("/v1/responses", answer).startswith("responses are served over HTTP")
    assert cluster.client.get("/v1/responses").status_code == 405


class Stub:
    """A server that notes the heads that it gets and answers each with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.heads: list[dict[str, str]] = []
        self._answer = answer

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *rows = head.strip().split("\r\n")
                found = {row.partition(": ")[0].lower(): row.partition(": ")[2] for row in rows}
                await reader.readexactly(int(found.get("content-length", 0)))
                if "/readyz" in first:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                else:
                    self.heads.append(found)
                    writer.write(self._answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def through(stub: Stub, scratch: Path, **values: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a gateway in front of the stub, which serves the only model."""
    given = {"models": [{"name": "qwen3", "source": "x/qwen3"}], **values}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(await asyncio.start_server(stub, HOST, 0))
        port = server.sockets[0].getsockname()[1]
        context = gateway(given, {"qwen3": [port]}, free_port(), scratch)
        made = await asyncio.to_thread(stack.enter_context, context)
        yield await stack.enter_async_context(httpx.AsyncClient(base_url=made.url, timeout=30))


async def test_what_a_server_refuses_comes_as_it_said_it(tmp_path: Path) -> None:
    """`Retry-After` and the body of a 429; the key and the headers of betas reach the server."""
    document = b'{"type":"error","error":{"type":"rate_limit_error","message":"Later."},"request_id":"req_1"}'
    head = b"HTTP/1.1 429 Too Many\r\nretry-after: 7\r\nrequest-id: req_1\r\ncontent-length: %d\r\n\r\n"
    stub = Stub(head % len(document) + document)
    async with through(stub, tmp_path, keys={"existingSecret": "keys"}) as client:
        sent = {"x-api-key": "secret", "anthropic-version": "2023-06-01", "anthropic-beta": "a-1,b-2"}
        answer = await client.post("/v1/messages?beta=true", json=claude(1), headers=sent)
        encoded = {"authorization": "Bearer secret", "content-encoding": "zstd"}
        await client.post("/v1/responses", content=b"(\xb5/\xfd", headers=encoded)
    assert (answer.status_code, answer.headers["retry-after"], answer.content) == (429, "7", document)
    first, second = stub.heads
    assert first.items() >= sent.items()
    assert second.items() >= encoded.items(), "the only model gets what the gateway cannot read"


async def test_a_session_of_an_agent_has_one_affinity_key(tmp_path: Path) -> None:
    stub = Stub(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async with through(stub, tmp_path) as client:

        async def key(path: str, body: Any) -> str:
            await client.post(path, json=body)
            return stub.heads[-1]["x-caravan-affinity"]

        sessions = [
            {await key("/v1/messages?beta=true", claude(turn)) for turn in range(TURNS)},
            {await key("/v1/messages?beta=true", claude(turn, system="Another.")) for turn in range(TURNS)},
            {await key("/v1/responses", codex(turn)) for turn in range(TURNS)},
            {await key("/v1/responses", codex(turn, question="Another?")) for turn in range(TURNS)},
        ]
    assert [len(keys) for keys in sessions] == [1, 1, 1, 1]
    assert len(set.union(*sessions)) == len(sessions)
