"""What is told of models over HTTP, to whom, and what is said where Ollama would change them."""

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app.access.keys import new_key
from app.api.ollama import unserved as ollama
from app.api.openai import unserved as openai
from app.api.unserved import Unserved
from app.catalogue.library import Library
from app.core.model import Model, ThinkingLevels
from app.engine.fake.engine import FakeEngine
from app.main import build_app
from app.settings.server import read_settings
from harness.fake_model import fake_model

LEVELS = ThinkingLevels((False, "low", "high"), "high")
KEY, HASH = new_key("derived")


def thinks(name: str, levels: ThinkingLevels | None) -> Model:
    model = fake_model(name)
    return replace(model, facts=replace(model.facts, thinking=levels))


MODELS = (
    thinks("known", LEVELS),
    thinks("unknown", None),
    replace(fake_model("derived"), parent="known:latest"),
    fake_model("plain", "completion"),
    fake_model("emb", "embedding"),
)


class Site:
    """A client of a server of `MODELS`, and its engine."""

    def __init__(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        self.client = client
        self.engine = engine

    async def think(self, model: str, **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": "Hi"}]
        return await self.client.post("/api/chat", json={"model": model, "messages": messages, **body})


@asynccontextmanager
async def site(window: int = 4096, **settings: Any) -> AsyncGenerator[Site]:
    engine = FakeEngine(window=window)

    async def start(_: Model) -> FakeEngine:
        return engine

    app = build_app(read_settings(preload=False, **settings), Library(MODELS), start)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        yield Site(client, engine)


@pytest.fixture
async def open_site() -> AsyncGenerator[Site]:
    async with site() as made:
        yield made


@pytest.fixture
async def keyed(tmp_path: Path) -> AsyncGenerator[Site]:
    """The client's key allows a derived model and not what it is built on."""
    record = {
        "id": "derived",
        "hash": HASH,
        "scopes": ["inference", "models:read", "models:write"],
        "models": ["derived"],
    }
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": [record]}))
    async with site(keys_file=file) as made:
        made.client.headers["authorization"] = f"Bearer {KEY}"
        yield made


# Levels of thinking


async def test_show_tells_the_levels_of_a_model_where_they_are_known(open_site: Site) -> None:
    shown = (await open_site.client.post("/api/show", json={"model": "known"})).json()
    assert shown["thinking"] == {"values": [False, "low", "high"], "default": "high"}
    shown = (await open_site.client.post("/api/show", json={"model": "unknown"})).json()
    assert "thinking" not in shown


@pytest.mark.point(123)
@pytest.mark.parametrize(
    ("model", "think", "used"),
    [
        ("known", None, "high"),
        ("known", "low", "low"),
        ("known", "LOW", "high"),
        ("known", "", "high"),
        ("known", "medium", "high"),
        ("known", True, True),
        ("known", False, False),
        ("unknown", None, None),
        ("unknown", "xhigh", "xhigh"),
        ("unknown", False, False),
    ],
)
async def test_what_a_model_is_asked_to_think(open_site: Site, model: str, think: Any, used: Any) -> None:
    assert (await open_site.think(model, think=think)).status_code == 200
    assert open_site.engine.renderings[-1].think == used
    assert open_site.engine.asked[-1].run.think == used


@pytest.mark.point(124)
@pytest.mark.parametrize("think", [1, 1.5, [], {}, ["low"]])
async def test_thinking_of_another_type_is_refused_with_the_levels_of_the_model(
    open_site: Site, think: Any
) -> None:
    text = "think must be a boolean or string"
    for model, more in (
        ("known", '; supported values: [false,"low","high"]'),
        ("KNOWN:latest", '; supported values: [false,"low","high"]'),
        ("unknown", ""),
        ("nosuch", ""),
        ("a b", ""),
    ):
        answer = await open_site.think(model, think=think)
        assert (answer.status_code, answer.json()) == (400, {"error": text + more})
    answer = await open_site.client.post("/api/generate", json={"model": "known", "think": think})
    assert answer.json()["error"].endswith('[false,"low","high"]')


async def test_the_levels_of_a_model_that_is_not_allowed_are_not_told(keyed: Site) -> None:
    answer = await keyed.think("known", think=1)
    assert answer.json() == {"error": "think must be a boolean or string"}


@pytest.mark.point(121)
@pytest.mark.parametrize("think", [True, "low", "bogus", ""])
async def test_a_model_that_cannot_think_is_not_asked_to(open_site: Site, think: Any) -> None:
    answer = await open_site.think("plain", think=think)
    assert (answer.status_code, answer.json()) == (400, {"error": '"plain" does not support thinking'})


# Lengths of context


@pytest.mark.parametrize("num_ctx", [None, 100, 4096])
async def test_what_runs_tells_the_length_that_found_room(num_ctx: int | None) -> None:
    """On a GPU less than the model's own length may have, and less than what is served by default."""
    asked = {"options": {"num_ctx": num_ctx}} if num_ctx else {}
    async with site(window=1536) as made:
        await made.think("plain", stream=False, **asked)
        (row,) = (await made.client.get("/api/ps")).json()["models"]
        assert row["context_length"] == min(num_ctx or 1536, 1536)
        listed = (await made.client.get("/api/tags")).json()["models"]
    assert {each["details"]["context_length"] for each in listed} == {4096}, "the model's own, as in Ollama"


# What a key may see (F21)


async def test_a_key_sees_neither_a_forbidden_parent_nor_the_server_s_folders(keyed: Site) -> None:
    answers = [
        await keyed.client.get("/api/tags"),
        await keyed.client.post("/api/show", json={"model": "derived"}),
        await keyed.client.get("/api/experimental/model-recommendations"),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert "derived" in answer.text
        assert "known" not in answer.text
        assert "/models" not in answer.text
    assert answers[0].json()["models"][0]["details"]["parent_model"] == ""
    assert "\n\nFROM derived:latest\n" in answers[1].json()["modelfile"]


async def test_whoever_may_see_the_parent_does(open_site: Site) -> None:
    tags = (await open_site.client.get("/api/tags")).json()["models"]
    parents = {item["name"]: item["details"]["parent_model"] for item in tags}
    assert parents["derived:latest"] == "known:latest"
    shown = (await open_site.client.post("/api/show", json={"model": "derived"})).json()
    assert shown["details"]["parent_model"] == "known:latest"
    assert "\nFROM /models/derived\n" in shown["modelfile"]


# Pull and what follows it


def lines(answer: httpx.Response) -> list[Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("name", ["plain", "PLAIN:latest", " library/plain "])
async def test_pulling_what_is_served_succeeds(open_site: Site, name: str) -> None:
    for body in ({"model": name}, {"name": name}, {"model": "", "name": name, "insecure": True}):
        answer = await open_site.client.post("/api/pull", json=body)
        assert lines(answer) == [{"status": "pulling manifest"}, {"status": "success"}]
    answer = await open_site.client.post("/api/pull", json={"model": name, "stream": False})
    assert (answer.status_code, answer.json()) == (200, {"status": "success"})
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.point(208)
@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "missing request body"),
        (b"{}", 400, "invalid model name"),
        (b'{"model":" "}', 400, "invalid model name"),
        (b'{"model":"a b"}', 400, "invalid model name"),
        (b'{"model":"x:cloud"}', 403, "ollama cloud is disabled: remote model is unavailable"),
        (
            b'{"model":1}',
            400,
            "json: cannot unmarshal number into Go struct field PullRequest.model of type string",
        ),
    ],
)
async def test_what_cannot_be_pulled(open_site: Site, body: bytes, status: int, error: str) -> None:
    answer = await open_site.client.post("/api/pull", content=body)
    assert (answer.status_code, answer.json()) == (status, {"error": error})


async def test_a_model_that_is_not_allowed_is_not_pulled(keyed: Site) -> None:
    answer = await keyed.client.post("/api/pull", json={"model": "known"})
    assert (answer.status_code, answer.json()) == (
        403,
        {"error": 'this API key does not allow the model "known"'},
    )


async def test_the_models_that_are_recommended_are_those_that_can_chat(open_site: Site) -> None:
    found = (await open_site.client.get("/api/experimental/model-recommendations")).json()["recommendations"]
    assert [item["model"] for item in found] == [
        f"{name}:latest" for name in ("known", "unknown", "derived", "plain")
    ]
    assert found[0] == {"model": "known:latest", "description": "llama, 1 parameters", "context_length": 4096}


# Routes that are not served


ROUTES = [
    *(("ollama", each) for each in ollama.ROUTES),
    *(("openai", each) for each in openai.ROUTES),
]


def request_of(unserved: Unserved) -> list[tuple[str, str]]:
    return [(method, re.sub(r"\{\w+\}", "sha256:00", unserved.path)) for method in unserved.methods]


@pytest.mark.parametrize(("api", "unserved"), ROUTES, ids=lambda each: getattr(each, "path", ""))
async def test_a_route_that_is_not_served_says_why_in_the_form_of_its_api(
    open_site: Site, api: str, unserved: Unserved
) -> None:
    for method, path in request_of(unserved):
        for body in (b"", b"{", b'{"model":"plain"}'):
            answer = await open_site.client.request(method, path, content=body)
            assert (answer.status_code, answer.headers["content-type"]) == (
                403,
                "application/json; charset=utf-8",
            )
            if method == "HEAD":
                assert answer.content == b""
                continue
            told = answer.json()
            match api:
                case "ollama":
                    assert told == {"error": unserved.reason}
                case _:
                    error = {"message": unserved.reason, "type": "api_error", "param": None, "code": None}
                    assert told == {"error": error}


@pytest.mark.parametrize(("api", "unserved"), ROUTES, ids=lambda each: getattr(each, "path", ""))
async def test_a_route_that_is_not_served_has_the_methods_of_ollama(
    open_site: Site, api: str, unserved: Unserved
) -> None:
    for _, path in request_of(unserved):
        for method in {"GET", "HEAD", "POST", "DELETE", "PUT"} - set(unserved.methods):
            answer = await open_site.client.request(method, path)
            assert answer.status_code == 405, method
            assert set(answer.headers["allow"].split(", ")) == set(unserved.methods)


async def test_a_route_that_is_not_served_needs_a_key_like_others(keyed: Site) -> None:
    assert "accounts" in (await keyed.client.post("/api/signout")).json()["error"]
    keyed.client.headers.pop("authorization")
    assert (await keyed.client.post("/api/signout")).status_code == 401
    assert (await keyed.client.post("/v1/chat/completions")).status_code == 401


@pytest.mark.point(6)
@pytest.mark.parametrize(
    "path", ["/api/creates", "/v1/messages/batches", "/v1", "/v1/decision", "/api/blobs"]
)
async def test_what_ollama_does_not_route_is_not_found(open_site: Site, path: str) -> None:
    answer = await open_site.client.post(path)
    assert (answer.status_code, answer.text) == (404, "404 page not found")
