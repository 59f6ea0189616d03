"""Requests that are signed, and Basic credentials, at the whole application (docs/reference 19.3)."""

import base64
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access.keys import new_key
from app.access.ring import BAD_BASIC, NO_KEY, WRONG_KEY
from app.access.signing import NO_TIME, STALE_SIGNATURE, WRONG_SIGNATURE
from tests.api.test_keys import BASE, BODIES, build, running
from tests.signing import Signer

SIGNER, NARROW, STRANGER = (Signer(bytes([number] * 32)) for number in (1, 2, 3))
KEY, HASH = new_key("secret")


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.yaml"
    scopes = ["inference", "models:read"]
    limits = {"requests_per_minute": 2}
    narrow = {"id": "narrow", "public_key": NARROW.public_key, "models": ["a"], "limits": limits}
    records: list[dict[str, Any]] = [
        {"id": "ann", "name": "Ann's notebook", "public_key": SIGNER.public_key, "scopes": scopes},
        {**narrow, "scopes": ["models:read"]},
        {"id": "secret", "hash": HASH, "scopes": scopes},
    ]
    file.write_text(yaml.safe_dump({"keys": records}))
    return file


@pytest.fixture
async def client(keys_file: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(build(keys_file=keys_file, open_paths=[])) as made:
        yield made


def at(apart_s: float = 0) -> int:
    return int(time.time() + apart_s)


@pytest.mark.row("A1", "B9")
async def test_what_is_signed_is_let_in_again_and_again(client: httpx.AsyncClient) -> None:
    target = f"/api/chat?ts={at()}"
    headers = {"authorization": SIGNER.header(f"POST,{target}")}
    for stream in (True, False, False):  # the body is not signed
        body = {**BODIES["/api/chat"], "stream": stream}
        assert (await client.post(target, json=body, headers=headers)).status_code == 200
    headers["host"] = "localhost"  # nor is the host
    assert (await client.post(target, json=BODIES["/api/chat"], headers=headers)).status_code == 200


async def test_a_head_of_the_root_is_let_in(client: httpx.AsyncClient) -> None:
    """With CARAVAN_OPEN_PATHS=none: every command begins with it."""
    assert (await client.head("/")).status_code == 401
    assert (await client.head("/", auth=SIGNER)).status_code == 200
    target = f"/?ts={at()}"
    headers = {"authorization": SIGNER.header(f"HEAD,{target}")}
    assert (await client.get(target, headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("signed", "sent", "text"),
    [
        ("GET,/api/tags?ts={at}", "/api/ps?ts={at}", WRONG_SIGNATURE),
        ("GET,/prefix/api/tags?ts={at}", "/api/tags?ts={at}", WRONG_SIGNATURE),
        ("GET,/api/tags?ts={at}", "/api/tags?ts={at}&x=1", WRONG_SIGNATURE),
        ("GET,/api/tags?ts={at}", "/api/tags?x=1&ts={at}", WRONG_SIGNATURE),
        ("GET,/api/tags?ts={at}", "/api/tags", NO_TIME),
        ("GET,/api/tags?ts={stale}", "/api/tags?ts={stale}", STALE_SIGNATURE),
        ("GET,/api/tags?ts={early}", "/api/tags?ts={early}", STALE_SIGNATURE),
        ("GET,/api/tags?ts={stale}", "/api/tags?ts={at}", WRONG_SIGNATURE),
        ("GET,/api/tags?x=1&ts={at}", "/api/tags?x=1&ts={at}", ""),
        ("GET,/v1/models/a%3Alatest?ts={at}", "/v1/models/a%3Alatest?ts={at}", ""),
    ],
)
async def test_a_signature_is_of_the_request_as_it_came(
    client: httpx.AsyncClient, signed: str, sent: str, text: str
) -> None:
    times = {"at": at(), "stale": at(-310), "early": at(310)}
    request = client.build_request("GET", BASE)
    request.url = request.url.copy_with(raw_path=sent.format(**times).encode())
    request.headers["authorization"] = SIGNER.header(signed.format(**times))
    answer = await client.send(request)
    if text:
        assert (answer.status_code, answer.json()) == (401, {"error": text, "status": text})
    else:
        assert answer.status_code == 200


async def test_a_prefix_that_a_proxy_takes_off_is_not_signed(keys_file: Path) -> None:
    """`OLLAMA_HOST=http://host/prefix`: the command line signs the path without it."""
    app = build(keys_file=keys_file, open_paths=[])

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"].removeprefix(b"/prefix")
        await app({**scope, "path": path.decode(), "raw_path": path}, receive, send)

    async with (
        running(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(proxy), base_url=f"{BASE}/prefix") as client,
    ):
        for path in ("/", "/api/tags"):
            target = f"{path}?ts={at()}"
            headers = {"authorization": SIGNER.header(f"GET,{target}")}
            assert (await client.get(target, headers=headers)).status_code == 200


async def test_a_stranger_and_one_without_a_key_are_told_so(client: httpx.AsyncClient) -> None:
    for auth, text in ((STRANGER, WRONG_SIGNATURE), (None, NO_KEY)):
        answer = await client.get("/api/tags", auth=auth)
        assert (answer.status_code, answer.json()["error"]) == (401, text)
    both = {"x-api-key": KEY, "authorization": SIGNER.header(f"GET,/api/tags?ts={at()}")}
    assert (await client.get(f"/api/tags?ts={at()}", headers=both)).status_code == 401


async def test_scopes_models_and_limits_are_those_of_the_key(client: httpx.AsyncClient) -> None:
    async def names() -> list[str]:
        return [row["name"] for row in (await client.get("/api/tags", auth=NARROW)).json()["models"]]

    refused = await client.post("/api/chat", json=BODIES["/api/chat"], auth=NARROW)
    assert refused.json() == {"error": "this API key does not have the scope 'inference'"}
    assert await names() == ["a:latest"]
    refused = await client.post("/api/show", json={"model": "b"}, auth=NARROW)
    assert refused.json() == {"error": 'this API key does not allow the model "b"'}
    assert (await client.get("/api/tags", auth=NARROW)).status_code == 429
    assert (await client.get("/api/tags", auth=SIGNER)).status_code == 200


async def test_who_one_is(client: httpx.AsyncClient) -> None:
    first, again = [(await client.post("/api/me", auth=SIGNER)).json() for _ in range(2)]
    assert first == again
    assert first["name"] == "Ann's notebook"
    other = (await client.post("/api/me", headers={"authorization": f"Bearer {KEY}"})).json()
    assert other["name"] == "secret"
    assert other["id"] != first["id"]


@pytest.mark.parametrize("user", ["", "anybody"])
async def test_a_key_may_be_a_password(client: httpx.AsyncClient, user: str) -> None:
    assert (await client.get("/api/tags", auth=(user, KEY))).status_code == 200
    assert (await client.get("/api/tags", auth=(KEY, ""))).json()["error"] == WRONG_KEY
    assert (await client.get("/api/tags", headers={"authorization": "Basic x"})).json()["error"] == BAD_BASIC


async def test_no_browser_is_asked_for_a_password(client: httpx.AsyncClient) -> None:
    """One that was typed in would be sent with whatever another site's page sends here."""
    assert (await client.get("/api/tags")).headers["www-authenticate"] == "Bearer"


async def test_a_password_is_never_repeated(keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    stranger = new_key("stranger")[0]
    async with running(build(keys_file=keys_file, debug=True)) as client:
        for key in (KEY, stranger):
            for path in ("/api/tags", "/nope", "/api/me"):
                answer = await client.post(path, auth=("user", key))
                told.append(f"{answer.text}\n{answer.headers}")
    everything = "\n".join([*told, caplog.text])
    for key in (KEY, stranger):
        encoded = base64.b64encode(f"user:{key}".encode()).decode()
        assert encoded not in everything
        assert key.rpartition("_")[2] not in everything


@pytest.mark.parametrize(
    ("settings", "page"), [({}, None), ({"signin_url": "https://x.test/k"}, "https://x.test/k")]
)
async def test_a_page_is_named_to_those_without_a_key_who_speak_ollama_s_api(
    keys_file: Path, settings: dict[str, Any], page: str | None
) -> None:
    app: ASGIApp = build(keys_file=keys_file, **settings)
    async with running(app) as client:
        refused = await client.get("/api/tags")
        assert (refused.status_code, refused.json().get("signin_url")) == (401, page)
        assert "signin_url" not in (await client.get("/v1/models")).text
        unknown = await client.get("/api/tags", auth=NARROW)
        assert "signin_url" not in unknown.json()
