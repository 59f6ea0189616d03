"""Two server processes on one store: what one has made the other serves, and nothing is lost (row C7)."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from app.core.model import ModelName
from app.store.manifest import MODEL, Layer, Manifest
from app.store.store import Store
from chaos.two_servers import Change, Run, broken, clients, differences, mixed, two_servers, until, visible

SEEN_S = 10.0
"""Where the machine is not busy it is two seconds: `python -m chaos.two_servers` measures it."""
OPERATIONS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(folder: Path) -> AsyncGenerator[list[str]]:
    async with two_servers(folder) as found:
        yield found


@pytest.mark.asyncio(loop_scope="module")
async def test_a_change_at_one_server_is_seen_by_the_other(urls: list[str]) -> None:
    taken = await visible(urls, times=2, seed=1)
    assert len(taken) == 4
    assert max(taken) < SEEN_S


@pytest.mark.asyncio(loop_scope="module")
async def test_mixed_operations_of_both_lose_nothing(urls: list[str], folder: Path) -> None:
    store = folder / "models"
    run = await mixed(urls, operations=OPERATIONS, seed=7, workers=3, store=store)
    assert run.problems == []
    assert run.done >= OPERATIONS
    assert len(run.counts) == 7, "each kind of operation came to pass"
    assert len(run.own) > 3
    # What judges it is judged: a loss is found.
    lost = next(iter(run.own))
    Store(store).delete(ModelName(lost))
    async with clients(urls) as (client, _):
        await until(client, lost, 404)
        assert f"{lost} is lost" in await differences(run, client)
    assert f"{lost} has no manifest" in broken(run, store)


def test_what_some_order_of_changes_can_leave() -> None:
    run = Run([], 0, 0, shared={"a": [Change(1, 2, "x"), Change(3, 5, "y"), Change(4, 6, None)]})
    assert run.may_be("a") == {"y", None}
    assert run.may_be("b") == {None}


def test_what_is_broken_on_the_disk_is_found(tmp_path: Path) -> None:
    store, run = Store(tmp_path), Run([], 0, 0)
    layer = Layer(MODEL, store.blobs.put(b"x"), 1)
    store.manifests.write(ModelName("a"), Manifest(None, (layer,)))
    assert broken(run, tmp_path) == []
    blob = store.blobs.path(layer.digest)
    blob.chmod(0o644)
    blob.write_bytes(b"y")
    (fault,) = broken(run, tmp_path)
    assert "the blob" in fault
    blob.unlink()
    assert "missing" in broken(run, tmp_path)[0]
