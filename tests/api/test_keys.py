"""Keys around the whole application: every route, what a key may see, and that a key is never repeated."""

import logging
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from app.access.files import BadKeys
from app.access.keys import new_key
from app.access.ring import NO_KEY, WRONG_KEY
from app.api.guard import need_of
from app.api.ollama import unserved as ollama
from app.api.openai import unserved as openai
from app.catalogue.library import Library
from app.core.context import SCOPES, Scope
from app.engine.fake.engine import FakeEngine
from app.main import build_app
from app.settings.server import read_settings
from harness.fake_model import fake_model

UNSERVED = (*ollama.ROUTES, *openai.ROUTES)
BASE = "http://127.0.0.1:11434"
KEYS: dict[str, tuple[str, str]] = {
    scope: new_key(scope.replace(":", "-")) for scope in (*sorted(SCOPES), "expired", "narrow", "wide")
}
"""A key and its hash for every scope, and some that have something besides."""

NEEDS: Mapping[tuple[str, str], str] = {
    ("GET", "/"): "key",
    ("HEAD", "/"): "key",
    ("GET", "/api/version"): "key",
    ("HEAD", "/api/version"): "key",
    ("GET", "/api/status"): "key",
    ("POST", "/api/me"): "key",
    ("GET", "/api/tags"): "models:read",
    ("HEAD", "/api/tags"): "models:read",
    ("GET", "/api/ps"): "models:read",
    ("POST", "/api/show"): "models:read",
    ("POST", "/api/pull"): "models:write",
    ("POST", "/api/push"): "models:write",
    ("POST", "/api/create"): "models:write",
    ("POST", "/api/copy"): "models:write",
    ("DELETE", "/api/delete"): "models:write",
    ("HEAD", "/api/blobs/{digest}"): "models:write",
    ("POST", "/api/blobs/{digest}"): "models:write",
    ("GET", "/api/experimental/model-recommendations"): "models:read",
    ("POST", "/api/experimental/web_search"): "tools",
    ("POST", "/api/experimental/web_fetch"): "tools",
    ("POST", "/api/chat"): "inference",
    ("POST", "/api/generate"): "inference",
    ("POST", "/api/embed"): "inference",
    ("POST", "/api/embeddings"): "inference",
    ("POST", "/v1/chat/completions"): "inference",
    ("POST", "/v1/completions"): "inference",
    ("POST", "/v1/embeddings"): "inference",
    ("POST", "/v1/responses"): "inference",
    ("GET", "/v1/responses"): "inference",
    ("POST", "/v1/responses/compact"): "inference",
    ("GET", "/v1/models"): "models:read",
    ("GET", "/v1/models/{model}"): "models:read",
    ("POST", "/v1/messages"): "inference",
    ("POST", "/v1/messages/count_tokens"): "inference",
    ("GET", "/metrics"): "metrics",
    ("GET", "/livez"): "nothing",
    ("GET", "/readyz"): "nothing",
    ("GET", "/startupz"): "nothing",
    # So that whoever has a key is told why, and not that the key lacks a scope.
    **{(method, each.path): "key" for each in UNSERVED for method in each.methods},
}
"""What each route must ask for. A route that is not here must ask for `admin`, until somebody decides."""

DOCUMENT = (Path(__file__).parents[2] / "docs/operations.md").read_text("utf-8")
OPENS = DOCUMENT.split("| scope | opens |")[1].split("\n\n")[0]

BODIES: Mapping[str, Mapping[str, Any]] = {
    "/api/chat": {"model": "a", "messages": [{"role": "user", "content": "Hi"}]},
    "/api/generate": {"model": "a", "prompt": "Hi"},
    "/api/embed": {"model": "emb", "input": "Hi"},
    "/api/embeddings": {"model": "emb", "prompt": "Hi"},
    "/v1/messages": {"model": "a", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/messages/count_tokens": {"model": "a", "messages": [{"role": "user", "content": "Hi"}]},
    "/api/show": {"model": "a"},
    "/api/pull": {"model": "a", "stream": False},
    "/api/push": {"model": "nosuch", "stream": False},
    "/api/create": {"model": "made", "from": "a", "stream": False},
    "/api/copy": {"source": "a", "destination": "copied"},
    "/api/delete": {"model": "nosuch"},
    "/api/experimental/web_search": {"query": "Hi"},
    "/api/experimental/web_fetch": {"url": "http://example.com"},
    "/v1/chat/completions": {"model": "a", "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"model": "a", "prompt": "Hi"},
    "/v1/embeddings": {"model": "emb", "input": "Hi"},
    "/v1/responses": {"model": "a", "input": "Hi"},
    "/v1/responses/compact": {"model": "a", "input": "Hi"},
}

STORE = Path(tempfile.mkdtemp(prefix="caravan-keys-"))
REFUSED = {each.path for each in UNSERVED} | {f"/api/experimental/web_{name}" for name in ("search", "fetch")}
"""What this server answers with 403 whatever the key; built-in tools are off."""

FAILING = {
    ("POST", "/v1/responses/compact"): 500,
    ("GET", "/v1/responses"): 405,
    ("POST", "/api/push"): 500,
    ("DELETE", "/api/delete"): 404,
    ("HEAD", "/api/blobs/{digest}"): 400,
    ("POST", "/api/blobs/{digest}"): 400,
}
"""The scripted model writes no summary, there is no WebSocket, no such model and no such digest."""


def key_file(folder: Path) -> Path:
    records: list[dict[str, Any]] = [
        {"id": scope.replace(":", "-"), "hash": KEYS[scope][1], "scopes": [scope]} for scope in SCOPES
    ]
    records += [
        {"id": "expired", "hash": KEYS["expired"][1], "scopes": ["admin"], "expires": "2020-01-01"},
        {"id": "narrow", "hash": KEYS["narrow"][1], "scopes": ["admin"], "models": ["a", "emb*"]},
        {"id": "wide", "hash": KEYS["wide"][1], "scopes": ["inference", "models:read"]},
    ]
    file = folder / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": records}))
    return file


@pytest.mark.parametrize(("route", "scope"), NEEDS.items(), ids=str)
def test_the_route_of_each_scope_is_documented(route: tuple[str, str], scope: str) -> None:
    if scope in SCOPES:
        [row] = [row for row in OPENS.splitlines() if row.startswith(f"| `{scope}`")]
        assert f"`{route[1]}`" in row


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return key_file(tmp_path_factory.mktemp("keys"))


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncGenerator[httpx.AsyncClient]:
    inner = inside(app)
    async with (
        inner.router.lifespan_context(inner),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as client,
    ):
        yield client


def inside(app: ASGIApp) -> FastAPI:
    """The application beneath the layers that are not Starlette's."""
    while not isinstance(app, FastAPI):
        app = app._app  # type: ignore[attr-defined]  # pyright: ignore
    return app


def build(**settings: Any) -> ASGIApp:
    async def start(_: object) -> FakeEngine:
        return FakeEngine()

    models = [fake_model("a"), fake_model("b"), fake_model("emb", "embedding")]
    settings.setdefault("models_dir", STORE)
    return build_app(read_settings(preload=False, **settings), Library(models), start)


@pytest.fixture
async def client(keys_file: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(build(keys_file=keys_file, open_paths=[])) as made:
        yield made


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name][0]}"}


def routes() -> list[tuple[str, str]]:
    found = [route for route in inside(build()).routes if isinstance(route, APIRoute)]
    return sorted((method, route.path) for route in found for method in route.methods)


def requests() -> list[tuple[str, str, Mapping[str, Any] | None]]:
    """Every route, each with a body that would do it good; what can stream does and does not."""
    found: list[tuple[str, str, Mapping[str, Any] | None]] = []
    for method, template in routes():
        path = template.replace("/v1/models/{model}", "/v1/models/a")
        body = BODIES.get(path)
        found.append((method, path, body))
        if path in ("/api/chat", "/api/generate") and body is not None:
            found.append((method, path, {**body, "stream": False}))
    return found


# Every route


def test_the_application_has_the_routes_that_are_spoken_of_here() -> None:
    """So that a walk over no routes cannot pass, and a new route makes somebody decide."""
    assert set(NEEDS) - {("GET", "/v1/models/a")} <= set(routes())
    assert len(routes()) >= 16


def test_every_route_declares_what_it_needs() -> None:
    found = {
        (method, route.path): need_of(route.endpoint)
        for route in inside(build()).routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    assert {place: need for place, need in found.items() if need != NEEDS.get(place, "admin")} == {}


@pytest.mark.row("A1", "B9")
@pytest.mark.parametrize(("method", "path", "body"), requests())
async def test_no_route_is_reached_without_the_right_scope(
    client: httpx.AsyncClient, method: str, path: str, body: Mapping[str, Any] | None
) -> None:
    need = NEEDS.get((method, path.replace("/v1/models/a", "/v1/models/{model}")), "admin")
    refused = path in REFUSED

    async def status(headers: Mapping[str, str]) -> int:
        return (await client.request(method, path, json=body, headers=headers)).status_code

    wrong = {"authorization": f"Bearer {new_key('wide')[0]}"}
    for headers in ({}, wrong, bearer("expired")):
        assert await status(headers) == (200 if need == "nothing" else 401), headers
    for scope in SCOPES:
        good = (need in ("nothing", "key", scope) or scope == "admin") and not refused
        assert await status(bearer(scope)) == (FAILING.get((method, path), 200) if good else 403), scope


@pytest.mark.parametrize("path", ["//api/tags", "/api/tags/"])
async def test_a_redirect_leads_to_a_route_that_asks_for_the_key(
    client: httpx.AsyncClient, path: str
) -> None:
    # As it stands on the wire: a client would take the two slashes for a host.
    request = client.build_request("GET", BASE)
    request.url = request.url.copy_with(raw_path=path.encode())
    moved = await client.send(request)
    assert moved.status_code in (301, 307)
    assert "models" not in moved.text
    followed = await client.get(moved.headers["location"])
    assert followed.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nope", 404), ("DELETE", "/api/chat", 405), ("HEAD", "/api/ps", 405), ("OPTIONS", "/", 405)],
)
async def test_what_is_not_routed_needs_no_key(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    assert (await client.request(method, path)).status_code == status


async def test_a_route_that_declares_nothing_is_for_admins(keys_file: Path) -> None:
    app = build(keys_file=keys_file)

    async def forgotten(name: str = "") -> str:
        return f"reached {name}"

    inside(app).add_api_route("/forgotten", forgotten, methods=["GET", "HEAD"])
    inside(app).add_api_route("/forgotten/{name}", forgotten, methods=["GET"])
    async with running(app) as client:
        for method, path in (("GET", "/forgotten"), ("HEAD", "/forgotten"), ("GET", "/forgotten/x")):
            assert (await client.request(method, path)).status_code == 401
            assert (await client.request(method, path, headers=bearer("wide"))).status_code == 403
            assert (await client.request(method, path, headers=bearer("admin"))).status_code == 200


async def test_where_routes_overlap_all_that_any_of_them_needs_is_asked_for(keys_file: Path) -> None:
    app = build(keys_file=keys_file)

    async def anything(rest: str) -> str:
        return rest

    inside(app).add_api_route("/{rest:path}", anything, methods=["GET"])
    async with running(app) as client:
        assert (await client.get("/livez")).status_code == 401
        assert (await client.get("/api/tags", headers=bearer("wide"))).status_code == 403
        assert (await client.get("/api/tags", headers=bearer("admin"))).status_code == 200


# The refusal


@pytest.mark.row("A1", "B9")
@pytest.mark.parametrize(
    ("headers", "text"), [({}, NO_KEY), ({"authorization": "Bearer no"}, WRONG_KEY)], ids=["none", "wrong"]
)
async def test_a_refusal_is_an_error_as_ollama_writes_it(
    client: httpx.AsyncClient, headers: Mapping[str, str], text: str
) -> None:
    answer = await client.post("/api/chat", json=BODIES["/api/chat"], headers=headers)
    assert answer.status_code == 401
    assert answer.json() == {"error": text, "status": text}
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.row("A1")
async def test_a_scope_that_is_missing_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/tags", headers=bearer("inference"))
    assert answer.status_code == 403
    assert answer.json() == {"error": "this API key does not have the scope 'models:read'"}
    assert "www-authenticate" not in answer.headers


async def test_two_keys_are_none(client: httpx.AsyncClient) -> None:
    twice = [("authorization", f"Bearer {KEYS[name][0]}") for name in ("admin", "wide")]
    assert (await client.get("/api/tags", headers=twice)).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("x-api-key", "wide")], 200),
        ([("x-api-key", "wide"), ("authorization", "wide")], 200),
        ([("x-api-key", "wide"), ("authorization", "admin")], 401),
        ([("x-api-key", "wide"), ("x-api-key", "wide")], 401),
        ([("x-api-key", "nobody")], 401),
    ],
)
async def test_a_key_may_come_as_x_api_key_and_two_different_ones_are_none(
    client: httpx.AsyncClient, headers: list[tuple[str, str]], status: int
) -> None:
    """As clients of Anthropic's API send it."""
    sent = [
        (name, f"Bearer {key}" if name == "authorization" else key)
        for name, who in headers
        for key in [KEYS[who][0] if who in KEYS else who]
    ]
    assert (await client.get("/api/tags", headers=sent)).status_code == status


@pytest.mark.parametrize("headers", [{}, bearer("models:read")], ids=["no key", "no scope"])
async def test_the_body_of_a_refused_request_is_not_read(keys_file: Path, headers: Mapping[str, str]) -> None:
    sent: list[Any] = []
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/api/chat",
        "raw_path": b"/api/chat",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *((k.encode(), v.encode()) for k, v in headers.items())],
        "http_version": "1.1",
    }

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    await build(keys_file=keys_file)(scope, receive, send)
    assert sent[0]["status"] in (401, 403)


# CORS


@pytest.mark.row("A1")
async def test_a_page_may_ask_without_a_key_whether_it_may_send_one(client: httpx.AsyncClient) -> None:
    page = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
    answer = await client.options(
        "/api/chat", headers={**page, "access-control-request-headers": "authorization"}
    )
    assert answer.status_code == 204
    assert "Authorization" in answer.headers["access-control-allow-headers"]


async def test_a_page_may_read_why_it_was_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/tags", headers={"origin": "http://localhost:3000"})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


# Open paths and the open server


@pytest.mark.parametrize(
    ("settings", "open_paths"),
    [
        ({}, {"/", "/api/version"}),
        ({"open_paths": "/metrics"}, {"/metrics"}),
        ({"open_paths": []}, set[str]()),
    ],
)
async def test_some_paths_may_be_opened(
    keys_file: Path, settings: dict[str, Any], open_paths: set[str]
) -> None:
    async with running(build(keys_file=keys_file, **settings)) as client:
        paths = ("/", "/api/version", "/metrics", "/api/tags", "/api/status")
        found = {path for path in paths if (await client.get(path)).status_code == 200}
    assert found == open_paths


@pytest.mark.parametrize(("method", "path", "body"), requests())
async def test_a_server_without_keys_is_open(method: str, path: str, body: Mapping[str, Any] | None) -> None:
    status = 403 if path in REFUSED else FAILING.get((method, path), 200)
    async with running(build()) as client:
        for headers in ({}, {"authorization": "Bearer whatever"}):
            assert (await client.request(method, path, json=body, headers=headers)).status_code == status


@pytest.mark.parametrize(("host", "warnings"), [("0.0.0.0", 1), ("[::]", 1), ("10.1.2.3", 1), ("::1", 0)])
async def test_an_open_server_that_others_can_reach_says_so_once(
    caplog: pytest.LogCaptureFixture, host: str, warnings: int
) -> None:
    async with running(build(host=host)) as client:
        await client.get("/")
        await client.get("/")
    said = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert len(said) == warnings
    assert all("no API keys are configured" in text for text in said)


async def test_a_server_with_keys_does_not(keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    build(host="0.0.0.0", keys_file=keys_file)
    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []


async def test_a_file_without_a_key_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("keys: []")
    async with running(build(keys_file=file)) as client:
        assert (await client.get("/api/tags")).status_code == 401


def test_a_server_whose_keys_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match="No such file"):
        build(keys_file=tmp_path / "none.yaml")


# Models


async def test_a_key_for_some_models_sees_and_uses_only_these(client: httpx.AsyncClient) -> None:
    async def status(path: str, model: str) -> int:
        body = {**BODIES[path], "model": model}
        return (await client.post(path, json=body, headers=bearer("narrow"))).status_code

    for path, model in product(("/api/show", "/api/chat", "/api/generate"), ("a", "A:latest", "library/a")):
        assert await status(path, model) == 200
    named = BODIES.keys() - {"/api/copy", "/api/delete"}  # tests/api/test_manage.py
    for path, model in product(sorted(named), ("b", "b:latest", "a:other", "unknown")):
        assert await status(path, model) == 403
    for path in ("/api/embed", "/api/embeddings"):
        assert await status(path, "emb") == 200

    tags = (await client.get("/api/tags", headers=bearer("narrow"))).json()
    assert {item["name"] for item in tags["models"]} == {"a:latest", "emb:latest"}


async def test_a_key_for_some_models_does_not_see_that_others_are_loaded(client: httpx.AsyncClient) -> None:
    for model in ("a", "b"):
        body = {**BODIES["/api/generate"], "model": model}
        assert (await client.post("/api/generate", json=body, headers=bearer("wide"))).status_code == 200

    async def loaded(name: str) -> set[str]:
        answer = await client.get("/api/ps", headers=bearer(name))
        return {item["name"] for item in answer.json()["models"]}

    assert await loaded("wide") == {"a:latest", "b:latest"}
    assert await loaded("narrow") == {"a:latest"}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_that_is_not_allowed_is_named(client: httpx.AsyncClient, stream: bool) -> None:
    answer = await client.post(
        "/api/chat", json={"model": "b", "messages": [], "stream": stream}, headers=bearer("narrow")
    )
    assert answer.status_code == 403
    assert answer.json() == {"error": 'this API key does not allow the model "b"'}


# Changes


async def test_a_revoked_key_is_refused_without_a_restart(tmp_path: Path) -> None:
    file = key_file(tmp_path)
    app = build(keys_file=file)
    async with running(app) as client:
        assert (await client.get("/api/tags", headers=bearer("wide"))).status_code == 200
        file.write_text(yaml.safe_dump({"keys": []}))
        await keys_of(app).refresh()
        assert (await client.get("/api/tags", headers=bearer("wide"))).status_code == 401


async def test_files_that_changed_are_counted(tmp_path: Path) -> None:
    file = key_file(tmp_path)
    app = build(keys_file=file, open_paths="/metrics")
    async with running(app) as client:
        for text in ("keys: [", "keys: []"):
            file.write_text(text)
            await keys_of(app).refresh()
        metrics = (await client.get("/metrics")).text
    for outcome in ("ok", "error"):
        assert f'caravan_keys_reloads_total{{outcome="{outcome}"}} 1.0' in metrics


def keys_of(app: ASGIApp) -> Any:
    """The ring of a built application: only its watcher, which looks once a second, has it otherwise."""
    [found] = [layer.kwargs["keys"] for layer in inside(app).user_middleware if "keys" in layer.kwargs]
    return found


# Secrecy


@pytest.mark.row("A1")
async def test_a_key_is_never_repeated(keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In no log at its most talkative, no answer, no header and no metric, be the key good or bad."""
    caplog.set_level(logging.DEBUG)
    app = build(keys_file=keys_file, debug=True)
    inside(app).add_api_route("/broken", broken, methods=["GET"])
    stranger = new_key("stranger")[0]
    told: list[str] = []
    async with running(app) as client:
        for key in (*(key for key, _ in KEYS.values()), stranger, "cvn_bad", f"{stranger}x"):
            for method, path, body in [*requests(), ("GET", "/broken", None), ("GET", "/nope", None)]:
                answer = await client.request(
                    method, path, json=body, headers={"authorization": f"Bearer {key}"}
                )
                told.append(f"{answer.text}\n{answer.headers}")
        told.append((await client.get("/metrics", headers=bearer("metrics"))).text)
    assert any("RuntimeError" in (entry.exc_text or "") for entry in caplog.records)  # a failure was logged
    told.append(caplog.text)
    secrets = [key.rpartition("_")[2] for key, _ in KEYS.values()] + [stranger.rpartition("_")[2]]
    hashes = [part for _, sealed in KEYS.values() for part in sealed.split(":")[1:]]
    everything = "\n".join(told)
    assert [hidden for hidden in (*secrets, *hashes, "cvn_bad") if hidden in everything] == []
    assert 'caravan_key_id="wide"' in everything  # it is the id that is told


async def broken() -> None:
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("scope", sorted(SCOPES))
async def test_a_request_is_counted_for_its_key(client: httpx.AsyncClient, scope: Scope) -> None:
    await client.get("/api/tags", headers=bearer(scope))
    metrics = (await client.get("/metrics", headers=bearer("metrics"))).text
    refused = f'caravan_rejections_total{{caravan_key_id="{scope.replace(":", "-")}",reason="forbidden"}}'
    assert (refused in metrics) == (scope not in ("models:read", "admin"))
