"""Keys as an operator and a client meet them: made on the command line, sent by Ollama's own client."""

import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import httpx
import ollama
import pytest

from tests.server import models as served_models
from tests.server import serving

pytestmark = pytest.mark.engine
SECONDS_TO_NOTICE = 30.0
CHAT = [{"role": "user", "content": "Say hello."}]
SHORT = {"num_predict": 4, "temperature": 0}


def keys(file: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "app.cli", "keys", *arguments, "--file", str(file)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Guarded:
    """A server that asks for keys, the file they are in, and its log."""

    url: str
    file: Path
    log: Path

    def client(self, key: str = "") -> ollama.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return ollama.Client(self.url, headers=headers, timeout=240)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Generator[Guarded]:
    scratch = tmp_path_factory.mktemp("guarded")
    file = scratch / "keys.yaml"
    keys(file, "create", "--id", "first")
    [plain] = [model for model in served_models() if model["name"] == "plain"]
    with serving([plain], scratch, CARAVAN_KEYS_FILE=str(file), CARAVAN_DEBUG="1") as server:
        yield Guarded(server.url, file, scratch / "server.log")


@pytest.mark.row("A1", "B9")
def test_ollama_s_client_works_with_a_key_and_not_without(guarded: Guarded) -> None:
    key = keys(guarded.file, "create", "--id", "client")
    _until(lambda: _status(guarded.url, key) == 200)
    with guarded.client(key) as client:
        assert [model.model for model in client.list().models] == ["plain:latest"]
        whole = client.chat("plain", CHAT, options=SHORT)
        pieces = list(client.chat("plain", CHAT, options=SHORT, stream=True))
    assert whole.message.content
    assert pieces[-1].done
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content

    for other in ("", key[:-1] + ("0" if key[-1] != "0" else "1")):
        with guarded.client(other) as client:
            with pytest.raises(ollama.ResponseError) as refused:
                client.chat("plain", CHAT)
            assert refused.value.status_code == 401
            with pytest.raises(ollama.ResponseError) as refused:
                list(client.chat("plain", CHAT, stream=True))
            assert refused.value.status_code == 401


@pytest.mark.row("A1")
def test_a_revoked_key_is_refused_while_the_server_runs(guarded: Guarded) -> None:
    key = keys(guarded.file, "create", "--id", "brief")
    _until(lambda: _status(guarded.url, key) == 200)
    keys(guarded.file, "revoke", "brief")
    _until(lambda: _status(guarded.url, key) == 401)


@pytest.mark.row("A1")
def test_the_log_of_a_talkative_server_holds_no_key(guarded: Guarded) -> None:
    key = keys(guarded.file, "create", "--id", "loud")
    _until(lambda: _status(guarded.url, key) == 200)
    with guarded.client(key) as client:
        client.chat("plain", CHAT, options=SHORT)
        with pytest.raises(ollama.ResponseError):
            client.chat("none", CHAT)
    log = guarded.log.read_text()
    assert "keys reloaded" in log
    assert key.rpartition("_")[2] not in log


def test_health_needs_no_key(guarded: Guarded) -> None:
    for path in ("/livez", "/readyz", "/", "/api/version"):
        assert httpx.get(guarded.url + path).status_code == 200
    assert httpx.get(guarded.url + "/metrics").status_code == 401


def _status(url: str, key: str) -> int:
    return httpx.get(f"{url}/api/tags", headers={"Authorization": f"Bearer {key}"}).status_code


def _until(true: Callable[[], bool]) -> None:
    """The server looks at its files once a second; nothing tells this process when it has."""
    deadline = time.monotonic() + SECONDS_TO_NOTICE
    while not true():
        assert time.monotonic() < deadline, "the server did not notice"
        time.sleep(0.1)
