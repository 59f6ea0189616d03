"""A pool behind the chart's Envoy: servers of one store, and a workload of its own beside them (row C7)."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.envoy import HOST, Gateway, gateway
from harness.fake_model import fake_model
from harness.nursery import Nursery
from harness.pool_server import pool_nursery
from harness.ports import free_port
from tests.api.managed import digest_of, gguf
from tests.e2e.fake_site import fake_site

NAMES = ("a", "b", "c")
MIB = 1 << 20
VALUES: dict[str, Any] = {
    "models": [{"name": "qwen3", "source": "x/qwen3", "aliases": [{"name": "pirate"}]}],
    "pools": [
        {"name": "shared"},
        {"name": "wide", "names": ["wide*"], "hashBalanceFactor": 100},
        {"name": "two", "names": ["two*"], "podsPerModel": 2},
    ],
    "gateway": {"maxBodyBytes": MIB, "bodySeconds": 1},
}
SEEN_S = 10.0
"""Longest time until all servers know what one has done. It is two seconds where the machine is not busy."""
HELD = 9
"""Requests at once."""


@dataclass
class Pool:
    """The gateway, and the servers by their name; `client` asks the gateway."""

    gateway: Gateway
    nursery: Nursery
    client: httpx.Client
    ports: dict[str, int]
    scratch: Path

    def start(self, name: str) -> None:
        self.nursery.start(name, self.ports[name], self.scratch / f"{name}.log")

    def wait_healthy(self, *names: str) -> None:
        for pool in VALUES["pools"]:
            self.gateway.wait_healthy(pool["name"], {self.ports[name] for name in names})

    def direct(self, name: str, path: str) -> Any:
        return httpx.get(f"http://{HOST}:{self.ports[name]}{path}", timeout=30).json()

    def listed(self, name: str) -> set[str]:
        return {row["name"] for row in self.direct(name, "/api/tags")["models"]}

    def chat(self, model: str, text: str = "Hi") -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        asked = {"model": model, "messages": messages, "options": {"num_predict": 1}, "stream": False}
        return self.client.post("/api/chat", json=asked)

    def home(self, model: str, text: str = "Hi") -> str:
        """The server that answers."""
        answer = self.chat(model, text)
        assert answer.status_code == 200, answer.text
        return answer.json()["message"]["content"]

    def settled(self, homes: Mapping[str, str]) -> None:
        """Whether models are where they belong, once all probes have been answered."""
        deadline = time.monotonic() + 3 * SEEN_S
        while (found := {name: self.home(name) for name in homes}) != homes:
            assert time.monotonic() < deadline, (found, homes)
            time.sleep(0.2)

    def create(self, model: str, **body: Any) -> None:
        answer = self.client.post("/api/create", json={"model": model, "stream": False, **body})
        assert (answer.status_code, answer.json()) == (200, {"status": "success"}), answer.text

    def copy(self, source: str, destination: str) -> httpx.Response:
        return self.client.post("/api/copy", json={"source": source, "destination": destination})

    def seen_by_all(self, sees: Callable[[set[str]], bool]) -> None:
        deadline = time.monotonic() + SEEN_S
        for name in self.ports:
            while not sees(self.listed(name)):
                assert time.monotonic() < deadline, f"{name} does not see it"
                time.sleep(0.05)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Generator[Pool]:
    scratch = tmp_path_factory.mktemp("pool")
    ports = {name: free_port() for name in NAMES}
    with ExitStack() as stack:
        servers = stack.enter_context(pool_nursery(scratch))
        own = stack.enter_context(fake_site(fake_model("qwen3"), fake_model("pirate"), host="0.0.0.0"))
        directory = stack.enter_context(
            fake_site(
                host="0.0.0.0",
                peers=[f"http://{HOST}:{own.port}"],
                peer_pools=[f"http://{HOST}:{port}" for port in ports.values()],
            )
        )
        for name, port in ports.items():
            servers.start(name, port, scratch / f"{name}.log")
        places = {each["name"]: list(ports.values()) for each in VALUES["pools"]} | {"qwen3": [own.port]}
        made = stack.enter_context(gateway(VALUES, places, directory.port, scratch))
        client = stack.enter_context(httpx.Client(base_url=made.url, timeout=30))
        found = Pool(made, servers, client, ports, scratch)
        weights = gguf()
        uploaded = client.post(f"/api/blobs/{digest_of(weights)}", content=weights)
        assert uploaded.status_code == 201, uploaded.text
        found.create("base", files={"base.gguf": digest_of(weights)})
        yield found


def test_a_model_that_one_server_made_is_served_by_all(pool: Pool) -> None:
    pool.create("fresh", **{"from": "base", "system": "Arr."})
    pool.seen_by_all(lambda names: "fresh:latest" in names)
    asked = {"model": "fresh", "prompt": "Hi", "options": {"num_predict": 1}, "stream": False}
    for name, port in pool.ports.items():
        answer = httpx.post(f"http://{HOST}:{port}/api/generate", json=asked, timeout=30)
        assert answer.json()["response"] == name
    assert pool.client.request("DELETE", "/api/delete", json={"model": "fresh"}).status_code == 200
    pool.seen_by_all(lambda names: "fresh:latest" not in names)
    assert pool.chat("fresh").status_code == 404


def test_a_model_keeps_to_one_server_and_models_spread(pool: Pool) -> None:
    homes: Counter[str] = Counter()
    for number in range(12):
        name = f"m{number}"
        assert pool.copy("base", name).status_code == 200
        found = {pool.home(form, text) for form in (name, f"{name.upper()}:latest") for text in "xyz"}
        assert len(found) == 1, f"{name} is served by {found}"
        homes.update(found)
    assert len(homes) > 1, "one server has them all"
    loads = [sum(loads_of(pool, name)) for name in NAMES]
    assert sum(loads) <= 3, "models on the same weights share an engine"


def loads_of(pool: Pool, name: str) -> list[float]:
    text = httpx.get(f"http://{HOST}:{pool.ports[name]}/metrics", timeout=30).text
    lines = (line for line in text.splitlines() if line.startswith("caravan_model_loads_total"))
    return [float(line.rpartition(" ")[2]) for line in lines]


def test_what_was_made_can_be_used_at_once(pool: Pool) -> None:
    """The server that made it is the one that is asked for it."""
    for number in range(8):
        name = f"soon{number}"
        pool.create(name, **{"from": "base", "system": f"{number}"})
        assert pool.chat(name).status_code == 200
        assert pool.copy(name, f"{name}-copy").status_code == 200
        shown = pool.client.post("/api/show", json={"model": f"{name}-copy"})
        assert (shown.status_code, shown.json()["system"]) == (200, f"{number}")
        assert pool.client.request("DELETE", "/api/delete", json={"model": name}).status_code == 200
        assert pool.chat(name).status_code == 404


def held(pool: Pool, model: str) -> Counter[str]:
    """Who serves so many requests for one model, each begun when the one before has its first word."""
    found: Counter[str] = Counter()
    streams: list[Iterator[str]] = []  # the end of one would be its answer's
    with ExitStack() as stack:
        for number in range(HELD):
            asked = {"model": model, "messages": [{"role": "user", "content": f"{number}"}]}
            answer = stack.enter_context(pool.client.stream("POST", "/api/chat", json=asked))
            streams.append(answer.iter_lines())
            found[json.loads(next(streams[-1]))["message"]["content"]] += 1
    return found


def test_one_model_that_all_want_stays_on_few_servers(pool: Pool) -> None:
    assert pool.copy("base", "hot").status_code == 200
    pool.seen_by_all(lambda names: "hot:latest" in names)
    assert len(held(pool, "hot")) == 1, "three times the average of three servers is all"


def test_what_a_server_takes_is_bounded(pool: Pool) -> None:
    assert pool.copy("base", "wide").status_code == 200
    pool.seen_by_all(lambda names: "wide:latest" in names)
    found = held(pool, "wide")
    assert len(found) == len(NAMES), f"they went to {found}"
    assert max(found.values()) <= HELD // len(NAMES) + 1


def test_conversations_of_a_model_on_two_servers_keep_to_their_own(pool: Pool) -> None:
    for number in range(4):
        name = f"two{number}"
        assert pool.copy("base", name).status_code == 200
        pool.seen_by_all(lambda names, name=name: f"{name}:latest" in names)
        homes = [[pool.home(name, f"question {text}") for _ in range(2)] for text in range(8)]
        assert all(first == second for first, second in homes)
        assert len({first for first, _ in homes}) <= 2


def test_lists_are_those_of_workloads_and_store(pool: Pool) -> None:
    assert pool.copy("base", "listed").status_code == 200
    pool.seen_by_all(lambda names: "listed:latest" in names)
    rows = [row["name"] for row in pool.client.get("/api/tags").json()["models"]]
    assert {"qwen3:latest", "pirate:latest", "base:latest", "listed:latest"} <= set(rows)
    assert len(rows) == len(set(rows))
    ids = [row["id"] for row in pool.client.get("/v1/models").json()["data"]]
    assert set(ids) == set(rows)
    assert pool.client.get("/v1/models/listed").json()["id"] == "listed"


def test_what_is_loaded_is_told_of_all_servers(pool: Pool) -> None:
    pool.home("base")
    loaded = {row["name"]: row.get("replicas", 1) for row in pool.client.get("/api/ps").json()["models"]}
    own = Counter(row["name"] for name in NAMES for row in pool.direct(name, "/api/ps")["models"])
    assert own
    assert own.items() <= loaded.items()


def test_a_name_that_nobody_has_is_answered_by_the_pool(pool: Pool) -> None:
    answer = pool.chat("nobody")
    assert (answer.status_code, answer.json()) == (404, {"error": "model 'nobody' not found"})
    shown = pool.client.post("/api/show", json={"model": "nobody"})
    assert (shown.status_code, shown.json()) == (404, {"error": "model 'nobody:latest' not found"})
    assert pool.client.get("/v1/models/nobody").status_code == 404
    gone = pool.client.request("DELETE", "/api/delete", json={"model": "nobody"})
    assert (gone.status_code, gone.json()) == (404, {"error": "model 'nobody' not found"})
    pulled = pool.client.post("/api/pull", json={"model": "nobody"})
    assert pulled.status_code == 403, "this pool pulls nothing"
    assert pool.copy("nobody", "x").json() == {"error": 'model "nobody" not found'}


def test_what_names_no_model_is_answered_as_without_pools(pool: Pool) -> None:
    assert pool.client.get("/").text == "Ollama is running"
    assert pool.client.post("/api/chat", content=b"{").status_code == 400
    assert pool.client.post("/api/copy", json={"source": "base"}).status_code == 400
    assert pool.client.post("/api/chat", json={"model": ""}).status_code == 400


def test_a_model_with_a_workload_of_its_own_is_not_the_pools(pool: Pool) -> None:
    answer = pool.chat("pirate")
    assert answer.json()["message"]["content"] not in NAMES
    for refused in (
        pool.copy("base", "QWEN3"),
        pool.client.post("/api/create", json={"model": "qwen3", "from": "base"}),
        pool.client.request("DELETE", "/api/delete", json={"model": "pirate"}),
    ):
        assert refused.status_code == 403
        assert "comes from the configuration" in refused.json()["error"]


def test_a_blob_may_be_larger_than_any_other_body(pool: Pool) -> None:
    data = bytes(8 * MIB) + b"x"
    path = f"/api/blobs/{digest_of(data)}"
    assert pool.client.head(path).status_code == 404
    assert pool.client.post(path, content=data).status_code == 201
    assert pool.client.head(path).status_code == 200
    chunks = (data[at : at + 65536] for at in range(0, len(data), 65536))
    wrong = pool.client.post(f"/api/blobs/{digest_of(b'other')}", content=chunks)
    assert wrong.status_code == 400
    assert "digest mismatch" in wrong.json()["error"]
    large = pool.client.post("/api/create", json={"model": "x", "from": "base", "system": "x" * 2 * MIB})
    assert large.status_code == 413


def test_a_blob_may_take_longer_than_any_other_body(pool: Pool) -> None:
    def slowly() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x"
            time.sleep(0.7)

    answer = pool.client.post(f"/api/blobs/{digest_of(b'xxx')}", content=slowly())
    assert answer.status_code == 201, answer.text


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    (line,) = (each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in each)
    return int(line.split()[1]) * 1024


def test_the_gateway_holds_no_blob(pool: Pool) -> None:
    """Blobs are larger than its memory. Here none may be sent again either, as that is to hold it."""
    data = bytes(96 * MIB)
    before = peak_bytes(pool.gateway.pid)
    assert pool.client.post(f"/api/blobs/{digest_of(data)}", content=data).status_code == 201
    assert peak_bytes(pool.gateway.pid) - before < 24 * MIB


def test_a_blob_and_the_create_that_needs_it_may_meet_different_servers(pool: Pool) -> None:
    for number in range(1, 7):
        weights = gguf(number)
        digest = digest_of(weights)
        assert pool.client.post(f"/api/blobs/{digest}", content=weights).status_code == 201
        pool.create(f"own{number}", files={"m.gguf": digest})
        assert pool.chat(f"own{number}").status_code == 200


def test_where_a_server_dies_others_serve_its_models(pool: Pool) -> None:
    names = [f"spare{number}" for number in range(6)]
    for name in names:
        assert pool.copy("base", name).status_code == 200
    pool.seen_by_all(lambda listed: {f"{name}:latest" for name in names} <= listed)
    before = {name: pool.home(name) for name in names}
    dead = before[names[0]]
    pool.nursery.end(dead, signal.SIGKILL)
    try:
        assert dead not in {pool.home(name) for name in names}
        # The others' probes may be late on a busy machine, again and again; then all is where it was.
        pool.settled({name: home for name, home in before.items() if home != dead})
        pool.create("meanwhile", **{"from": names[0]})
    finally:
        pool.start(dead)
        pool.wait_healthy(*NAMES)
    pool.settled(before)
    assert "meanwhile:latest" in pool.listed(dead)
