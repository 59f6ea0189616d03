"""A client that leaves, whenever it does, costs nothing from then on: the engine's own counts say so."""

import random
from typing import Any

import httpx
import psutil
import pytest

from harness.server import LiveServer
from tests.e2e.engines import STORY, asking, busy, eventually, load, metric, served

pytestmark = pytest.mark.engine

FREE_S = 2.0
BEGUN_S = 60.0
MANY_TEXTS: dict[str, Any] = {"model": "emb", "input": [f"{at} llamas in a row" for at in range(1500)]}


def is_free(client: httpx.Client, model: str) -> bool:
    return not busy(client, model)


def prompt(words: int) -> str:
    return " ".join(f"word{at}" for at in range(words))


@pytest.fixture
def ready(client: httpx.Client) -> httpx.Client:
    load(client, "tool")
    eventually(lambda: is_free(client, "tool"), BEGUN_S)
    return client


@pytest.mark.point(94)
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_leaving_a_stream_frees_its_slot(ready: httpx.Client, server: LiveServer, path: str) -> None:
    body = STORY if path == "/api/chat" else STORY | {"prompt": "Write a long story."}
    with asking(server.url, path, body) as connection:
        assert connection.recv(1000)
        assert eventually(lambda: busy(ready, "tool"), BEGUN_S) == 1
    eventually(lambda: is_free(ready, "tool"), FREE_S)


@pytest.mark.point(94)
def test_leaving_before_the_first_token_frees_the_slot(ready: httpx.Client, server: LiveServer) -> None:
    with asking(server.url, "/api/chat", STORY):
        eventually(lambda: busy(ready, "tool"), BEGUN_S)
    eventually(lambda: is_free(ready, "tool"), FREE_S)


def test_leaving_a_whole_answer_frees_its_slot(ready: httpx.Client, server: LiveServer) -> None:
    before = metric(ready, "generation_tokens_total", "tool")
    with asking(server.url, "/api/chat", STORY | {"stream": False}):
        eventually(lambda: busy(ready, "tool"), BEGUN_S)
    eventually(lambda: is_free(ready, "tool"), FREE_S)
    after = metric(ready, "generation_tokens_total", "tool")
    assert before is not None
    assert after is not None
    assert after - before < 500, "the answer was made to its end"


def test_leaving_an_embed_request_frees_its_slots(client: httpx.Client, server: LiveServer) -> None:
    load(client, "emb")
    with asking(server.url, "/api/embed", MANY_TEXTS):
        eventually(lambda: served(client, "emb"), BEGUN_S)
    eventually(lambda: is_free(client, "emb") and not served(client, "emb"), FREE_S)
    assert (
        len(client.post("/api/embed", json={"model": "emb", "input": "still here"}).json()["embeddings"]) == 1
    )


def test_fifty_clients_that_leave_at_any_moment_leave_nothing_behind(
    ready: httpx.Client, server: LiveServer
) -> None:
    load(ready, "emb")
    process = psutil.Process(server.pid) if server.pid else None
    files = process.num_fds() if process else 0
    dice = random.Random(35)
    for _ in range(50):
        path, body = dice.choice(
            [
                ("/api/chat", STORY),
                ("/api/chat", STORY | {"stream": False}),
                ("/api/generate", {"model": "tool", "prompt": prompt(200), "think": False}),
                ("/api/generate", {"model": "tool", "prompt": prompt(200), "stream": False}),
                ("/api/embed", MANY_TEXTS | {"input": MANY_TEXTS["input"][:30]}),
            ]
        )
        with asking(server.url, path, body) as connection:
            connection.settimeout(dice.choice([0.0, 0.001, 0.01, 0.1]))
            try:
                connection.recv(dice.choice([1, 100, 1000]))
            except (TimeoutError, BlockingIOError):
                continue
    eventually(lambda: is_free(ready, "tool"), FREE_S)
    eventually(lambda: is_free(ready, "emb"), FREE_S)
    if process is not None:
        eventually(lambda: process.num_fds() <= files, BEGUN_S)
    assert ready.post("/api/chat", json=STORY | {"stream": False}).json()["done_reason"] == "stop"
