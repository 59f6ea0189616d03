"""Embeddings: points 159 to 169 (and 58, 85, 140 of an embedding model), on the real all-MiniLM-L6-v2."""

import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import numpy as np
import pytest

from app.core.errors import EngineFailed
from app.engine.base import Vectors
from app.engine.fake.engine import FakeEngine
from harness.fake_model import fake_model
from tests.e2e.fake_site import fake_site
from tests.e2e.ollama_lines import JSON, in_engines

pytestmark = pytest.mark.engine

WIDTH = 384
"""Values in a vector of this model."""

LIMIT = 256
"""Tokens that it reads, [CLS] and [SEP] among them."""

LONG = "cat " * 1000


def embed(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/api/embed", json={"model": "emb", **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == JSON
    return answer.json()


def vectors(client: httpx.Client, *texts: str, **fields: Any) -> list[list[float]]:
    found = embed(client, input=list(texts), **fields)["embeddings"]
    assert len(found) == len(texts)
    return found


def older(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/api/embeddings", json={"model": "emb", **fields})


def norm(vector: Sequence[float]) -> float:
    return math.hypot(*vector)


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return float(np.dot(a, b)) / (norm(a) * norm(b))


def refused(answer: httpx.Response, error: str, status: int = 400) -> None:
    assert (answer.status_code, answer.json()) == (status, {"error": error})


@pytest.mark.point(159)
def test_a_text(client: httpx.Client) -> None:
    answer = embed(client, input="The cat sits on the mat.")
    assert list(answer) == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
    [vector] = answer["embeddings"]
    assert len(vector) == WIDTH
    assert norm(vector) == pytest.approx(1, abs=1e-5)
    assert answer["prompt_eval_count"] == 9  # [CLS] the cat sits on the mat . [SEP]
    assert 0 < answer["load_duration"] <= answer["total_duration"]


@pytest.mark.point(159)
def test_what_is_alike_is_near(client: httpx.Client) -> None:
    near = vectors(client, "A cat sleeps on the sofa.", "A kitten is napping on the couch.")
    [far] = vectors(client, "The central bank raised interest rates.")
    assert cosine(*near) > 0.6
    assert max(cosine(far, each) for each in near) < 0.2


@pytest.mark.point(160)
def test_a_list_keeps_its_order_and_sums_its_counts(client: httpx.Client) -> None:
    texts = ["one", "two words", "now three words"]
    whole = embed(client, input=texts)
    parts = [embed(client, input=text) for text in texts]
    np.testing.assert_allclose(
        whole["embeddings"], [part["embeddings"][0] for part in parts], atol=1e-4, rtol=0
    )
    assert [part["prompt_eval_count"] for part in parts] == [3, 4, 5]
    assert whole["prompt_eval_count"] == 12


def test_64_texts_in_one_request(client: httpx.Client) -> None:
    texts = [f"number {number}" for number in range(64)]
    found = np.array(vectors(client, *texts))
    alone = np.array([embed(client, input=text)["embeddings"][0] for text in (texts[0], texts[-1])])
    np.testing.assert_allclose(found[[0, -1]], alone, atol=1e-4, rtol=0)
    assert len(np.unique(found.round(3), axis=0)) == 64


def test_32_requests_at_once(client: httpx.Client) -> None:
    texts = [f"request {number}" for number in range(32)]
    expected = vectors(client, *texts)
    with ThreadPoolExecutor(len(texts)) as pool:
        found = list(pool.map(lambda text: embed(client, input=text), texts))
    np.testing.assert_allclose([each["embeddings"][0] for each in found], expected, atol=1e-4, rtol=0)
    assert in_engines(client) == 0


@pytest.mark.point(161, 167)
@pytest.mark.parametrize("fields", [{"input": ""}, {"input": []}, {"input": None}, {}, {"prompt": "text"}])
def test_nothing_to_embed(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = client.post("/api/embed", json={"model": "emb", **fields})
    assert (answer.status_code, answer.text) == (200, '{"model":"emb","embeddings":[]}')


@pytest.mark.point(162)
@pytest.mark.parametrize("text", ["", " ", "🧀👩\u200d🚀", "日本", "\0", "[CLS] [SEP]", "<b>&\u2028"])
def test_every_item_of_a_list_has_a_vector(client: httpx.Client, text: str) -> None:
    answer = embed(client, input=[text, "x"])
    assert [len(vector) for vector in answer["embeddings"]] == [WIDTH, WIDTH]
    assert norm(answer["embeddings"][0]) == pytest.approx(1, abs=1e-5)
    assert answer["prompt_eval_count"] >= 5


@pytest.mark.point(163)
@pytest.mark.parametrize("value", [5, [5], {}, ["a", ["b"]], True, ["a", None], 1.5, {"a": 1}])
@pytest.mark.parametrize("name", ["emb", "nosuch"])
def test_input_of_another_type(client: httpx.Client, value: Any, name: str) -> None:
    refused(client.post("/api/embed", json={"model": name, "input": value}), "invalid input type")


@pytest.mark.point(163)
def test_the_name_is_looked_at_before_the_input(client: httpx.Client) -> None:
    def ask(name: str) -> httpx.Response:
        return client.post("/api/embed", json={"model": name, "input": 5})

    refused(ask("a b"), "invalid model name")
    refused(ask(""), "model '' not found", 404)
    refused(ask("x:cloud"), "ollama cloud is disabled: remote model is unavailable", 403)


@pytest.mark.point(164)
def test_a_text_too_long_to_be_cut(client: httpx.Client) -> None:
    error = "the input length exceeds the context length"
    for texts in (LONG, ["short", LONG]):
        body = {"model": "emb", "input": texts, "truncate": False}
        refused(client.post("/api/embed", json=body), error)
    assert embed(client, input="cat " * (LIMIT - 2), truncate=False)["prompt_eval_count"] == LIMIT


@pytest.mark.point(165)
def test_a_text_too_long_is_cut(client: httpx.Client) -> None:
    fitting = embed(client, input="cat " * (LIMIT - 2))
    for fields in ({}, {"truncate": True}, {"truncate": None}, {"options": {"num_ctx": 100_000}}):
        cut = embed(client, input=LONG, **fields)
        assert cut["prompt_eval_count"] == LIMIT
        np.testing.assert_allclose(cut["embeddings"], fitting["embeddings"], atol=1e-4, rtol=0)


@pytest.mark.point(165)
def test_num_ctx_is_where_a_text_is_cut(client: httpx.Client) -> None:
    cut = embed(client, input=LONG, options={"num_ctx": 10})
    fitting = embed(client, input="cat " * 8)
    assert cut["prompt_eval_count"] == 10
    np.testing.assert_allclose(cut["embeddings"], fitting["embeddings"], atol=1e-4, rtol=0)


@pytest.mark.point(166)
def test_dimensions(client: httpx.Client) -> None:
    [full] = vectors(client, "some text")
    [short] = vectors(client, "some text", dimensions=2)
    assert norm(short) == pytest.approx(1, abs=1e-5)
    assert short == pytest.approx([value / norm(full[:2]) for value in full[:2]], abs=1e-5)
    for dimensions in (0, -1, WIDTH, 10_000, None):
        [whole] = vectors(client, "some text", dimensions=dimensions)
        assert whole == pytest.approx(full, abs=1e-6)


@pytest.mark.point(159)
def test_numbers_are_the_shortest_that_are_exact_in_float32(client: httpx.Client) -> None:
    answer = client.post("/api/embed", json={"model": "emb", "input": ["cheese", "wine"]})
    found = re.search(r'"embeddings":\[\[(.*?)\],\[(.*?)\]\]', answer.text)
    assert found is not None
    for number in f"{found[1]},{found[2]}".split(","):
        assert Decimal(number) == Decimal(str(np.float32(number)))


def test_a_model_that_writes_text_does_not_embed(client: httpx.Client) -> None:
    error = '"tool" does not support embeddings'
    refused(client.post("/api/embed", json={"model": "tool", "input": "x"}), error)
    refused(client.post("/api/embeddings", json={"model": "tool", "prompt": "x"}), error)
    assert client.post("/api/generate", json={"model": "tool"}).json()["done_reason"] == "load"


@pytest.mark.point(85, 140)
@pytest.mark.parametrize("route", ["generate", "chat"])
@pytest.mark.parametrize("asked", [{}, {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}])
def test_a_model_that_embeds_does_not_write_text(
    client: httpx.Client, route: str, asked: dict[str, Any]
) -> None:
    refused(client.post(f"/api/{route}", json={"model": "emb", **asked}), f'"emb" does not support {route}')


@pytest.mark.point(55)
@pytest.mark.parametrize("name", ["EMB", " emb ", "emb:local", "Emb:Latest"])
def test_the_name_is_echoed_as_sent(client: httpx.Client, name: str) -> None:
    answer = embed(client, model=name, input="x")
    assert answer["model"] == name
    assert len(answer["embeddings"]) == 1


@pytest.mark.point(168)
def test_the_older_route(client: httpx.Client) -> None:
    """It gives the vector as the model made it; only its length differs from what embed gives."""
    answer = older(client, prompt="some text", input="other text")
    assert answer.headers["content-type"] == JSON
    document = answer.json()
    assert list(document) == ["embedding"]
    vector = document["embedding"]
    [unit] = vectors(client, "some text")
    assert cosine(vector, unit) == pytest.approx(1, abs=1e-4)
    assert abs(norm(vector) - 1) > 0.1


@pytest.mark.point(168)
@pytest.mark.parametrize("fields", [{"prompt": ""}, {}, {"prompt": None}, {"input": "x"}])
def test_the_older_route_without_a_prompt(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = older(client, **fields)
    assert (answer.status_code, answer.text) == (200, '{"embedding":[]}')


@pytest.mark.point(58)
def test_the_older_route_minds_the_case(client: httpx.Client) -> None:
    refused(older(client, model="EMB", prompt="x"), 'model "EMB" not found, try pulling it first', 404)
    assert older(client, model=" emb:latest ", prompt="x").status_code == 200


def test_the_older_route_cuts_nothing(client: httpx.Client) -> None:
    refused(older(client, prompt=LONG), "the input length exceeds the context length")
    assert len(older(client, prompt="cat " * (LIMIT - 2)).json()["embedding"]) == WIDTH


def test_keep_alive_of_an_embedding(client: httpx.Client) -> None:
    embed(client, input="x", keep_alive=-1)
    assert _expiry_year(client) > 2100
    embed(client, input="x", keep_alive="5m")
    assert _expiry_year(client) < 2100


def _expiry_year(client: httpx.Client) -> int:
    rows = client.get("/api/ps").json()["models"]
    return next(int(row["expires_at"][:4]) for row in rows if row["name"] == "emb:latest")


class FailingEngine(FakeEngine):
    """It cannot embed."""

    async def embed(self, inputs: Sequence[str], **options: Any) -> Vectors:
        raise EngineFailed("out of luck")


@pytest.mark.point(169)
def test_a_failure_of_the_engine() -> None:
    with fake_site(fake_model("emb", "embedding"), engine=FailingEngine) as site:
        for route in ("embed", "embeddings"):
            body = {"model": "emb", "input": "x", "prompt": "x"}
            answer = site.client.post(f"/api/{route}", json=body)
            refused(answer, "out of luck", 500)
            assert answer.headers["content-type"] == JSON
        assert site.client.post("/api/embed", json={"model": "emb"}).json()["embeddings"] == []
