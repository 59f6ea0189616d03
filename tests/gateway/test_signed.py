"""Signed requests and Basic credentials through the gateway: what was signed arrives as it was sent."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import yaml

from app.access.keys import new_key
from harness.envoy import HOST, gateway
from harness.fake_model import fake_model
from tests.e2e.fake_site import fake_site
from tests.gateway.conftest import OPEN
from tests.signing import Signer

SIGNER = Signer(bytes(32))
KEY, HASH = new_key("secret")
VALUES: dict[str, Any] = {
    "models": [{"name": "qwen3", "source": "x/qwen3"}, {"name": "llama", "source": "x/llama"}],
    "keys": {"existingSecret": "keys"},
}


def test_the_command_line_is_let_in_through_the_gateway(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    scopes = ["inference", "models:read"]
    records = [
        {"id": "ann", "public_key": SIGNER.public_key, "scopes": scopes},
        {"id": "secret", "hash": HASH, "scopes": scopes},
    ]
    file.write_text(yaml.safe_dump({"keys": records}))
    keyed: dict[str, Any] = {**OPEN, "keys_file": file, "open_paths": []}
    with ExitStack() as stack:
        qwen3, llama = [
            stack.enter_context(fake_site(fake_model(name), **keyed)) for name in ("qwen3", "llama")
        ]
        peers = [f"http://{HOST}:{site.port}" for site in (qwen3, llama)]
        directory = stack.enter_context(fake_site(**keyed, peers=peers))
        servers = {"qwen3": [qwen3.port], "llama": [llama.port]}
        made = stack.enter_context(gateway(VALUES, servers, directory.port, tmp_path))
        for auth in (SIGNER, ("anybody", KEY)):
            with httpx.Client(base_url=made.url, timeout=30, auth=auth) as client:
                assert client.head("/").status_code == 200
                tags = client.get("/api/tags").json()["models"]
                offered = client.get("/api/experimental/model-recommendations").json()["recommendations"]
                assert {row["name"] for row in tags} == {row["model"] for row in offered}
                assert {row["name"] for row in tags} == {"qwen3:latest", "llama:latest"}
                for name in ("qwen3", "llama"):
                    shown = client.post("/api/show", json={"model": name})
                    assert shown.status_code == 200, shown.text
                    body = {"model": name, "prompt": "Hi", "suffix": "", "options": {}}
                    answer = client.post("/api/generate", json=body)
                    assert answer.status_code == 200
                    assert '"done":true' in answer.text
                assert client.post("/api/me").json()["name"] == ("ann" if auth is SIGNER else "secret")
        with httpx.Client(base_url=made.url, auth=Signer(bytes([1] * 32))) as stranger:
            assert stranger.post("/api/show", json={"model": "qwen3"}).status_code == 401
