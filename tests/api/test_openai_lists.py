"""OpenAI's embeddings and list of models (docs/reference 13.3 and 13.4), and what is not served."""

import base64
import json
import struct
from dataclasses import replace
from typing import Any

import httpx
import pytest
import zstandard

from app.core.model import ModelName
from harness.fake_model import fake_model
from tests.api.openai_site import Site, refused, site


async def embed(served: Site, **fields: Any) -> httpx.Response:
    return await served.client.post("/v1/embeddings", json={"model": "emb", "input": "hi there", **fields})


@pytest.mark.point(227)
async def test_vectors_come_as_numbers_or_as_bytes() -> None:
    async with site() as served:
        plain = await embed(served)
        packed = await embed(served, encoding_format="BASE64")
        short = await embed(served, dimensions=2)
        several = await embed(served, input=["a", "", "hi there"])
        empty = await embed(served, input="")
    found = plain.json()
    assert list(found) == ["object", "data", "model", "usage"]
    assert found["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    (item,) = found["data"]
    assert list(item) == ["object", "embedding", "index"]
    data = base64.b64decode(packed.json()["data"][0]["embedding"])
    assert struct.unpack(f"<{len(data) // 4}f", data) == pytest.approx(item["embedding"])
    assert len(short.json()["data"][0]["embedding"]) == 2
    assert [each["index"] for each in several.json()["data"]] == [0, 1, 2]
    assert several.json()["data"][2]["embedding"] == item["embedding"]
    assert len(empty.json()["data"]) == 1


@pytest.mark.point(227)
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"input": None}, "invalid input"),
        ({"input": []}, "invalid input"),
        ({"input": [1, 2]}, "invalid input type"),
        ({"input": [[1], [2]]}, "invalid input type"),
        ({"input": {"a": 1}}, "invalid input type"),
        (
            {"encoding_format": "hex"},
            "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64'].",
        ),
        ({"model": "m"}, '"m" does not support embeddings'),
        ({"input": ["x"] * 2049}, "input: at most 2048, this request has 2049"),
        (
            {"truncate_prompt_tokens": 5},
            "truncate_prompt_tokens: an input that is too long is cut to the model's window",
        ),
    ],
)
async def test_what_cannot_be_embedded_is_refused(fields: Any, text: str) -> None:
    async with site() as served:
        refused(await embed(served, **fields), text)


async def test_an_unknown_model_of_embeddings_has_the_words_of_that_route() -> None:
    async with site() as served:
        refused(await embed(served, model="nosuch"), 'model "nosuch" not found, try pulling it first', 404)


async def test_an_input_that_is_too_long_is_cut() -> None:
    async with site() as served:
        answer = await embed(served, input="word " * 5000)
    assert answer.json()["usage"]["prompt_tokens"] == 4096


# Models


@pytest.mark.point(228)
async def test_one_model_has_the_name_of_the_path() -> None:
    async with site() as served:
        for name in ("m", "M:latest"):
            found = (await served.client.get(f"/v1/models/{name}")).json()
            assert (found["id"], found["object"], found["owned_by"]) == (name, "model", "library")
        refused(await served.client.get("/v1/models/nosuch"), "model 'nosuch:latest' not found", 404)
        path = await served.client.get("/v1/models/a/b")
        assert (path.status_code, path.text) == (404, "404 page not found")


@pytest.mark.point(170)
async def test_models_are_listed_as_tags_has_them() -> None:
    other = fake_model("x")
    other = replace(other, spec=replace(other.spec, name=ModelName("y", namespace="me")))
    async with site(models=(other,)) as served:
        found = (await served.client.get("/v1/models")).json()
        tags = (await served.client.get("/api/tags")).json()
    assert [each["id"] for each in found["data"]] == [each["name"] for each in tags["models"]]
    assert found["object"] == "list"
    assert found["data"][-1] == {
        "id": "me/y:latest",
        "object": "model",
        "created": int(other.facts.modified_at.timestamp()),
        "owned_by": "me",
    }


@pytest.mark.parametrize("path", ["systemone", "decisions", "audio/speech", "audio/transcriptions"])
async def test_what_is_not_served_says_why(path: str) -> None:
    async with site() as served:
        answer = await served.client.post(f"/v1/{path}", json={})
    assert answer.status_code == 403
    assert "models of this server" in answer.json()["error"]["message"]


# Before any route


async def test_what_is_refused_before_the_route_has_openai_s_envelope() -> None:
    async with site(max_body_bytes=64) as served:
        answer = await served.chat({"role": "user", "content": "x" * 100})
        assert answer.status_code == 413
        assert list(answer.json()["error"]) == ["message", "type", "param", "code"]
        refused(answer, answer.json()["error"]["message"], 413)
        packed = {"content-encoding": "br"}
        unread = await served.client.post("/v1/completions", content=b"x", headers=packed)
        assert (unread.status_code, unread.headers["accept-encoding"]) == (415, "gzip, deflate, zstd")
        assert list(unread.json()) == ["error"]


async def test_a_body_may_come_as_zstd() -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    packed = zstandard.ZstdCompressor().compress(body)
    async with site() as served:
        answer = await served.client.post(
            "/v1/chat/completions", content=packed, headers={"content-encoding": "zstd"}
        )
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
