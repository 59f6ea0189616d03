"""The catalogue of a server that is killed, crowded, filled and lied to: the short form of `chaos.store`."""

import asyncio
import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from chaos.store import MIB, Found, Place, crowded, killed, large, place_with_registry
from chaos.store_lies import lied
from harness.fake_server import FakeServers, fake_servers, request
from harness.oci_registry import running_registry
from harness.sound_store import unsound
from tests.api.managed import digest_of, gguf
from tests.programs import program

SEED = 15


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Generator[FakeServers]:
    with fake_servers(tmp_path_factory.mktemp("servers")) as started:
        yield started


def held(found: Found) -> None:
    print(found.told)
    assert found.wrong == []


def test_killed_in_the_middle_of_everything(servers: FakeServers, tmp_path: Path) -> None:
    with (
        running_registry(program("docker-registry"), tmp_path) as registry,
        place_with_registry(servers, tmp_path, registry, 8 * MIB) as place,
    ):
        held(asyncio.run(killed(place, 6, random.Random(SEED))))


def test_eight_clients_at_once(servers: FakeServers, tmp_path: Path) -> None:
    held(asyncio.run(crowded(Place(servers, tmp_path, {}), 8, 8, SEED)))


def test_a_large_blob_takes_little_memory(servers: FakeServers, tmp_path: Path) -> None:
    held(asyncio.run(large(Place(servers, tmp_path, {}), 256 * MIB, 48 * MIB)))


def test_200_headers_that_lie(servers: FakeServers, tmp_path: Path) -> None:
    held(asyncio.run(lied(Place(servers, tmp_path, {}), 70, SEED, converted=2)))


def test_a_disk_that_is_full(servers: FakeServers, tmp_path: Path) -> None:
    place = Place(servers, tmp_path, {})
    server = place.start(most_file_bytes=256 << 10)
    data = gguf() + bytes(512 << 10)
    full = "the model store of this server is full"
    here: dict[str, Any] = {"model": "here", "from": "plain", "system": "Here."}
    request(server, "POST", "/api/create", **here)
    before = files_of(tmp_path / "models")
    answer = request(server, "POST", f"/api/blobs/{digest_of(data)}", content=data)
    assert answer.status_code == 507
    assert answer.json()["error"].startswith(full)
    body: dict[str, Any] = {"model": "new", "from": "plain", "system": "x" * (300 << 10)}
    answer = request(server, "POST", "/api/create", **body, stream=False)
    assert answer.status_code == 507
    assert answer.json()["error"].startswith(full)
    lines = request(server, "POST", "/api/create", **body).text.splitlines()
    assert full in lines[-1]
    assert files_of(tmp_path / "models") == before
    answer = request(server, "POST", "/api/generate", model="here", prompt="Hi", stream=False)
    assert answer.status_code == 200
    assert request(server, "DELETE", "/api/delete", model="here").status_code == 200
    assert unsound(place.store) == []
    server.stop()


def files_of(root: Path) -> list[str]:
    return sorted(str(file) for file in root.rglob("*") if file.is_file())
