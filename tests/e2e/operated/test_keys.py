"""Keys as an operator and a client meet them: made on the command line, sent by Ollama's own client."""

import httpx
import ollama
import pytest

from tests.e2e.engines import OwnServer, eventually
from tests.e2e.keys import Keys

pytestmark = pytest.mark.engine
SECONDS_TO_NOTICE = 30.0
CHAT = [{"role": "user", "content": "Say hello."}]
SHORT = {"num_predict": 4, "temperature": 0}


def client_of(site: OwnServer, key: str = "") -> ollama.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return ollama.Client(site.url, headers=headers, timeout=240)


@pytest.mark.row("A1", "B9")
def test_ollama_s_client_works_with_a_key_and_not_without(site: OwnServer, keys: Keys) -> None:
    key = keys.run("create", "--id", "client")
    eventually(lambda: _status(site.url, key) == 200, SECONDS_TO_NOTICE)
    with client_of(site, key) as client:
        assert {model.model for model in client.list().models} == {"tool:latest", "emb:latest"}
        whole = client.chat("tool", CHAT, think=False, options=SHORT)
        pieces = list(client.chat("tool", CHAT, think=False, options=SHORT, stream=True))
    assert whole.message.content
    assert pieces[-1].done
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content

    for other in ("", key[:-1] + ("0" if key[-1] != "0" else "1")):
        with client_of(site, other) as client:
            with pytest.raises(ollama.ResponseError) as refused:
                client.chat("tool", CHAT)
            assert refused.value.status_code == 401
            with pytest.raises(ollama.ResponseError) as refused:
                list(client.chat("tool", CHAT, stream=True))
            assert refused.value.status_code == 401


@pytest.mark.row("A1")
def test_a_revoked_key_is_refused_while_the_server_runs(site: OwnServer, keys: Keys) -> None:
    key = keys.run("create", "--id", "brief")
    eventually(lambda: _status(site.url, key) == 200, SECONDS_TO_NOTICE)
    keys.run("revoke", "brief")
    eventually(lambda: _status(site.url, key) == 401, SECONDS_TO_NOTICE)
    assert "keys reloaded" in site.log


def test_health_needs_no_key(site: OwnServer) -> None:
    for path in ("/livez", "/readyz", "/", "/api/version"):
        assert httpx.get(site.url + path).status_code == 200
    assert httpx.get(site.url + "/metrics").status_code == 401


def _status(url: str, key: str) -> int:
    return httpx.get(f"{url}/api/tags", headers={"Authorization": f"Bearer {key}"}).status_code
