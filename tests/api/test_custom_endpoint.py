"""An editor's custom endpoint: whichever of the three APIs it is set to, with the key in either header."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.access.keys import new_key
from harness.fake_model import fake_model
from tests.e2e.fake_site import fake_site

pytestmark = pytest.mark.row("A9")

KEY, DIGEST = new_key("editor")
ASKED = [{"role": "user", "content": "hi"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOLD = {"name": "weather", "description": "The weather"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": ASKED,
        "max_tokens": 64,
        "tools": [{"type": "function", "function": {**TOLD, "parameters": CITY}}],
        "stream_options": {"include_usage": True},
    },
    "/v1/responses": {
        "input": ASKED,
        "max_output_tokens": 64,
        "tools": [{"type": "function", **TOLD, "parameters": CITY}],
        "store": False,
    },
    "/v1/messages": {"messages": ASKED, "max_tokens": 64, "tools": [{**TOLD, "input_schema": CITY}]},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    scopes = ["inference", "models:read"]
    file.write_text(json.dumps({"keys": [{"id": "editor", "hash": DIGEST, "scopes": scopes}]}))
    with fake_site(fake_model("m"), keys_file=file) as site:
        yield site.client


@pytest.mark.parametrize(
    "header", [{"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}], ids=["own", "bearer"]
)
@pytest.mark.parametrize("path", BODIES)
def test_a_custom_endpoint_of_each_api_takes_the_key_in_either_header(
    client: httpx.Client, path: str, header: dict[str, str]
) -> None:
    body = {"model": "m", "stream": True, **BODIES[path]}
    assert client.post(path, json=body).status_code == 401
    answer = client.post(path, json=body, headers=header)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    assert "scripted" in answer.text
    assert client.get("/v1/models", headers=header).json()["data"][0]["id"] == "m:latest"
