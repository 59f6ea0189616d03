"""A server without models that lists those of others, as it stands beside a cluster's gateway (row C7)."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
import yaml

from app.core.errors import PeersSilent
from app.peers.peers import LISTS, Peers
from harness.fake_model import fake_model
from harness.ports import free_port
from tests.api.scrape import value
from tests.e2e.fake_site import FakeSite, fake_site
from tests.signing import Signer

TIMEOUT_S = 1.0
LOAD = {"messages": [{"role": "user", "content": "Hi"}], "stream": False}


def url(port: int, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{port}"


@contextmanager
def directory(*ports: int, **settings: Any) -> Generator[FakeSite]:
    with fake_site(peers=[url(port) for port in ports], peer_timeout=TIMEOUT_S, **settings) as site:
        yield site


@contextmanager
def silent_port() -> Generator[int]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def names(site: FakeSite, path: str) -> list[str]:
    answer = site.client.get(path)
    assert answer.status_code == 200, answer.text
    return [row["name"] for row in answer.json()["models"]]


def test_the_official_client_sees_the_models_of_all_servers() -> None:
    with (
        fake_site(fake_model("a")) as first,
        fake_site(fake_model("b"), fake_model("c")) as second,
        directory(first.port, second.port) as whole,
        closing(ollama.Client(url(whole.port))) as client,
    ):
        assert {row.model for row in client.list().models} == {"a:latest", "b:latest", "c:latest"}
        assert client.ps().models == []
        first.client.post("/api/chat", json={"model": "a", **LOAD}).raise_for_status()
        (loaded,) = client.ps().models
        assert (loaded.model, loaded.expires_at is not None) == ("a:latest", True)


def test_replicas_of_a_model_are_one_row() -> None:
    with (
        fake_site(fake_model("a")) as first,
        fake_site(fake_model("a")) as second,
        directory(first.port, second.port) as whole,
    ):
        assert names(whole, "/api/tags") == ["a:latest"]
        for site in (first, second):
            site.client.post("/api/chat", json={"model": "a", **LOAD}).raise_for_status()
        (row,) = whole.client.get("/api/ps").json()["models"]
        assert row["replicas"] == 2
        alone = first.client.get("/api/ps").json()["models"][0]
        assert "replicas" not in alone
        assert row["size"] == 2 * alone["size"]


async def test_a_name_stands_for_all_of_its_addresses() -> None:
    """As that of a headless Service does. Both addresses are this machine's."""

    async def resolve(host: str, _: int) -> list[str]:
        assert host == "replicas.test"
        return ["127.0.0.1", "localhost"]

    with fake_site(fake_model("a"), host="0.0.0.0") as site:
        peers = Peers([url(site.port, "replicas.test")], TIMEOUT_S, resolve)
        answers = await peers.rows("/api/tags", "")
    assert [[row["name"] for row in rows] for rows in answers] == [["a:latest"]] * 2


async def test_one_server_of_a_pool_tells_of_the_models_and_all_of_what_is_loaded() -> None:
    """They have one store, so what one lists they all would."""
    asked: list[str] = []

    async def resolve(host: str, _: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1", "localhost"] if host == "pool.test" else ["127.0.0.1"]

    with (
        fake_site(fake_model("a"), fake_model("b"), host="0.0.0.0") as pool,
        fake_site(fake_model("B")) as own,
    ):
        peers = Peers([url(own.port)], TIMEOUT_S, resolve, pools=[url(pool.port, "pool.test")])
        answers = await peers.rows("/api/tags", "")
        # A workload of its own has the name, whatever the store says of it.
        assert [[row["name"] for row in rows] for rows in answers] == [["B:latest"], ["a:latest"]]
        pool.client.post("/api/chat", json={"model": "a", **LOAD}).raise_for_status()
        loaded = [[row["name"] for row in rows] for rows in await peers.rows("/api/ps", "")]
        assert loaded == [[], ["a:latest"], ["a:latest"]]


async def test_another_server_of_a_pool_is_asked_where_one_does_not_answer() -> None:
    async def resolve(_: str, __: int) -> list[str]:
        return [f"127.0.0.{number}" for number in range(1, 6)]

    # Only the first of these addresses is listened on.
    with fake_site(fake_model("a"), host="0.0.0.0") as site:
        failed: list[str] = []
        peers = Peers([], TIMEOUT_S, resolve, pools=[url(site.port, "pool.test")], on_failure=failed.append)
        for _ in range(6):
            assert [[row["name"] for row in rows] for rows in await peers.rows("/api/tags", "")] == [
                ["a:latest"]
            ]
        assert set(failed) == {"silent"}
    with pytest.raises(PeersSilent):
        await peers.rows("/api/tags", "")


async def test_a_pool_that_hangs_is_not_asked_to_its_last_server() -> None:
    async def resolve(_: str, __: int) -> list[str]:
        return [f"127.0.0.{number}" for number in range(1, 21)]

    with closing(socket.create_server(("0.0.0.0", 0), backlog=64)) as hangs:
        failed: list[str] = []
        port = hangs.getsockname()[1]
        peers = Peers([], 0.2, resolve, pools=[url(port, "pool.test")], on_failure=failed.append)
        with pytest.raises(PeersSilent):
            await peers.rows("/api/tags", "")
    assert 1 <= len(failed) <= 2


def test_a_directory_lists_pools(tmp_path: Path) -> None:
    with (
        fake_site(fake_model("a"), models_dir=tmp_path) as pool,
        fake_site(peer_pools=[url(pool.port)]) as whole,
    ):
        assert names(whole, "/api/tags") == ["a:latest"]
        assert [row["id"] for row in whole.client.get("/v1/models").json()["data"]] == ["a:latest"]


def test_a_server_that_is_down_or_silent_does_not_break_the_list() -> None:
    with (
        fake_site(fake_model("a")) as site,
        silent_port() as silent,
        directory(site.port, silent, free_port()) as whole,
    ):
        begun = time.monotonic()
        assert names(whole, "/api/tags") == ["a:latest"]
        assert time.monotonic() - begun < 5 * TIMEOUT_S


def test_where_no_server_answers_that_is_said() -> None:
    with directory(free_port()) as whole:
        answer = whole.client.get("/api/tags")
        assert answer.status_code == 503
        assert answer.json() == {"error": "none of the servers behind this one answers"}


def test_a_name_without_an_address_is_a_model_without_replicas() -> None:
    with (
        fake_site(fake_model("a")) as site,
        fake_site(peers=[url(site.port), "http://nobody.invalid:11434"], peer_timeout=TIMEOUT_S) as whole,
    ):
        assert names(whole, "/api/tags") == ["a:latest"]


def test_servers_that_name_each_other_answer_once() -> None:
    port = free_port()
    with (
        fake_site(fake_model("a"), peers=[url(port)], peer_timeout=TIMEOUT_S) as first,
        directory(first.port) as second,
    ):
        assert names(second, "/api/tags") == ["a:latest"]


def test_what_is_no_list_is_answered_as_by_any_server() -> None:
    with fake_site(fake_model("a")) as site, directory(site.port) as whole:
        answer = whole.client.post("/api/chat", json={"model": "nobody", **LOAD})
        assert (answer.status_code, answer.json()) == (404, {"error": "model 'nobody' not found"})
        assert whole.client.get("/").text == "Ollama is running"
        assert whole.client.post("/api/chat", content=b"{").status_code == 400
        assert whole.client.get("/readyz").status_code == 200


def test_a_model_of_a_server_behind_is_there_already() -> None:
    """Names match in any case, as they do where the model is."""
    with fake_site(fake_model("a")) as site, directory(site.port) as whole:
        for name, last in (("A:latest", {"status": "success"}), ("b", None)):
            answer = whole.client.post("/api/pull", json={"model": name})
            assert answer.text.endswith("}\n")
            assert (json.loads(answer.text.splitlines()[-1]) == last) is (last is not None)


def test_the_key_of_the_client_is_what_the_servers_are_asked_with(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    keys = [make_key(file, "a-only", "--model", "a"), make_key(file, "all")]
    with (
        fake_site(fake_model("a"), fake_model("b"), keys_file=file) as site,
        directory(site.port) as whole,
        directory(site.port, keys_file=file) as guarded,
    ):
        for each in (whole, guarded):
            seen = [listed(each, key) for key in keys]
            assert seen == [["a:latest"], ["a:latest", "b:latest"]]
            refused = each.client.get("/api/tags")
            assert refused.status_code == 401
            assert "key" in refused.json()["error"]


def test_what_a_key_may_not_use_is_left_out_of_lists_of_servers_without_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    key = make_key(file, "a-only", "--model", "a")
    lists = {
        "/api/tags": ("models", "name"),
        "/api/ps": ("models", "name"),
        "/v1/models": ("data", "id"),
        "/api/experimental/model-recommendations": ("recommendations", "model"),
    }
    with (
        fake_site(fake_model("a", "completion"), fake_model("b", "completion")) as open_to_all,
        directory(open_to_all.port, keys_file=file) as guarded,
        directory(open_to_all.port) as whole,
    ):
        for name in "ab":
            open_to_all.client.post("/api/chat", json={"model": name, **LOAD}).raise_for_status()
        for path, (member, field) in lists.items():
            seen = [
                sorted(row[field] for row in site.client.get(path, headers=headers).json()[member])
                for site, headers in ((guarded, {"authorization": f"Bearer {key}"}), (whole, None))
            ]
            assert seen == [["a:latest"], ["a:latest", "b:latest"]], path


def test_a_server_that_answers_429_is_left_out_and_counted(tmp_path: Path) -> None:
    """R2: it dropped out of the list in silence."""
    file, more = tmp_path / "keys.yaml", tmp_path / "more.yaml"
    key = make_key(file, "k", "--requests-per-minute", "1")
    with closing(httpx.Client(headers={"authorization": f"Bearer {key}"})) as client:
        more.write_text(file.read_text().replace("requests_per_minute: 1", "requests_per_minute: 9"))
        with (
            fake_site(fake_model("a"), keys_file=file) as strict,
            fake_site(fake_model("b"), keys_file=more) as easy,
            directory(strict.port, easy.port) as whole,
            directory(strict.port) as alone,
        ):
            assert [len(client.get(url(whole.port) + "/api/tags").json()["models"]) for _ in "ab"] == [2, 1]
            assert value(whole.client, "caravan_peers_failures_total", reason="rate") == 1
            refused = client.get(url(alone.port) + "/api/tags")
            assert refused.status_code == 429
            assert "requests per minute" in refused.json()["error"]
            assert refused.headers["retry-after"].isdigit()


def test_openai_s_list_is_of_the_whole_cluster_too(tmp_path: Path) -> None:
    """With a key of either kind; what the key may not use is unknown."""
    file = tmp_path / "keys.yaml"
    key = make_key(file, "a-only", "--model", "a")
    with fake_site(fake_model("a"), fake_model("b"), keys_file=file) as site, directory(site.port) as whole:
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
            found = whole.client.get("/v1/models", headers=headers).json()["data"]
            assert [(row["id"], row["owned_by"]) for row in found] == [("a:latest", "library")]
            one = whole.client.get("/v1/models/a", headers=headers)
            assert one.json() == {**found[0], "id": "a"}
            for name in ("b", "c"):
                assert whole.client.get(f"/v1/models/{name}", headers=headers).status_code == 404


def test_a_signature_of_the_client_is_good_for_the_servers_too(tmp_path: Path) -> None:
    """They are asked something else than what was signed, and nothing but their lists."""
    file, signer = tmp_path / "keys.yaml", Signer(bytes(32))
    record = {"id": "ann", "public_key": signer.public_key, "scopes": ["inference", "models:read"]}
    file.write_text(yaml.safe_dump({"keys": [record]}))
    with (
        fake_site(fake_model("a"), fake_model("emb", "embedding"), keys_file=file) as site,
        directory(site.port) as whole,
        directory(site.port, keys_file=file) as guarded,
        closing(httpx.Client(auth=signer)) as client,
    ):
        for each in (whole, guarded):
            found = {
                path: client.get(url(each.port) + path).json()
                for path in ("/api/tags", "/v1/models", "/api/ps", "/api/experimental/model-recommendations")
            }
            assert {row["name"] for row in found["/api/tags"]["models"]} == {"a:latest", "emb:latest"}
            assert {row["id"] for row in found["/v1/models"]["data"]} == {"a:latest", "emb:latest"}
            assert found["/api/ps"] == {"models": []}
            offered = found["/api/experimental/model-recommendations"]["recommendations"]
            assert [row["model"] for row in offered] == ["a:latest"]
            pulled = client.post(url(each.port) + "/api/pull", json={"model": "a"})
            assert pulled.status_code == (200 if each is whole else 403)  # its key may not pull
            assert client.head(url(each.port) + "/api/tags").status_code == 200
        own = {"/api/tags": "/v1/models", "/api/ps": "/api/ps"}
        for path, asked in own.items():
            signed = f"GET,{asked}?ts={int(time.time())}"
            headers = {"authorization": signer.header(signed), "x-caravan-peer": signed}
            assert httpx.get(url(site.port) + path, headers=headers).status_code == 200
            others = {("GET", each) for each in (*LISTS, "/v1/models")} - {("GET", path), ("GET", asked)}
            more = {("POST", "/api/show"), ("POST", "/api/me"), ("POST", "/api/generate")}
            for method, other in others | more:
                assert httpx.request(method, url(site.port) + other, headers=headers).status_code == 401
        signed = f"POST,/api/chat?ts={int(time.time())}"
        headers = {"authorization": signer.header(signed), "x-caravan-peer": signed}
        for path in LISTS:
            assert httpx.get(url(site.port) + path, headers=headers).status_code == 401, path


def test_a_client_that_says_to_be_a_server_gets_lists_of_one_alone() -> None:
    """That is all that the header does, and it does it where servers are asked."""
    header = {"x-caravan-peer": "1"}
    with fake_site(fake_model("a")) as site, directory(site.port) as whole:
        assert whole.client.get("/api/tags", headers=header).json() == {"models": []}
        assert [row["id"] for row in whole.client.get("/v1/models", headers=header).json()["data"]] == [
            "a:latest"
        ]
        pulled = whole.client.post("/api/pull", json={"model": "a", "stream": False}, headers=header)
        assert pulled.json() == {"status": "success"}


def listed(site: FakeSite, key: str) -> list[str]:
    answer = site.client.get("/api/tags", headers={"authorization": f"Bearer {key}"})
    return sorted(row["name"] for row in answer.json()["models"])


def make_key(file: Path, name: str, *options: str) -> str:
    made = subprocess.run(
        [sys.executable, "-m", "app.cli", "keys", "create", "--id", name, "--file", str(file), *options],
        check=True,
        capture_output=True,
        text=True,
    )
    return made.stdout.split()[-1]


def test_it_starts_without_an_engine_and_without_vllm(tmp_path: Path) -> None:
    """`caravan serve` with peers alone: no bundled model, no engine process, nothing of vLLM."""
    port = free_port()
    code = (
        "import sys\n"
        "from app.serve import run\n"
        "from app.settings.server import read_settings\n"
        "run(read_settings())\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('vllm', 'torch')]\n"
    )
    environment = {
        "CARAVAN_HOST": f"127.0.0.1:{port}",
        "CARAVAN_PEERS": url(free_port()),
        "CARAVAN_CACHE_DIR": str(tmp_path / "cache"),
        "PATH": "/usr/bin:/bin",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until_it_serves(port, process)
        assert httpx.get(url(port) + "/readyz").text == "ok"
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


def wait_until_it_serves(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(url(port))
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
