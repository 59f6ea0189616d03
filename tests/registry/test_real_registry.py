"""Pull and push with Debian's docker-registry."""

import os
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest

from app.core.errors import RegistryFailed
from app.core.model import ModelName
from app.registry.progress import SUCCESS, Progress
from app.registry.push import push
from harness.oci_registry import running_registry
from tests.programs import program
from tests.registry.models import Place, digest_of, model_of, place, statuses, told

MODEL = model_of(os.urandom(3 << 20), b"{{ .Prompt }}", b'{"model_format":"gguf"}')


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with running_registry(program("docker-registry"), tmp_path_factory.mktemp("oci")) as address:
        yield address


def beside(root: Path, host: str) -> AbstractAsyncContextManager[Place]:
    """This registry puts what it takes on the disk, which may take long beside other tests."""
    return place(root, host, stall_s=30)


def named(host: str, model: str = "tiny", tag: str = "latest") -> ModelName:
    return ModelName(model, tag, "library", host)


async def pushed(there: Place, name: ModelName) -> list[Progress]:
    return await told(push(there.registry(name), there.store, backoff_s=0.01))


async def test_a_model_goes_there_and_comes_back(host: str, tmp_path: Path) -> None:
    name = named(host)
    async with beside(tmp_path / "a", host) as a, beside(tmp_path / "b", host) as b:
        a.put(name, MODEL)
        lines = await pushed(a, name)
        short = [f"pushing {digest[7:19]}" for digest in MODEL.blobs]
        assert statuses(lines) == ["retrieving manifest", *short, "pushing manifest", "success"]
        assert {line.completed for line in await pushed(a, name) if line.digest} == set(
            map(len, MODEL.blobs.values())
        )
        lines = await told(b.pull(name))
        short = [f"pulling {digest[7:19]}" for digest in MODEL.blobs]
        assert statuses(lines) == [
            "pulling manifest",
            *short,
            "verifying sha256 digest",
            "writing manifest",
            "success",
        ]
        found = b.store.manifests.find(name)
        assert found is not None
        assert f"sha256:{found.digest}" == digest_of(MODEL.raw)
        assert b.holds(MODEL)
        assert b.left() == []


async def test_what_is_there_is_told_of_once_and_not_fetched(host: str, tmp_path: Path) -> None:
    name = named(host, "there")
    async with beside(tmp_path / "a", host) as a:
        a.put(name, MODEL)
        await pushed(a, name)
        lines = await told(a.pull(name))
    blobs = [(line.digest, line.total, line.completed) for line in lines if line.digest]
    assert blobs == [(digest, len(data), len(data)) for digest, data in MODEL.blobs.items()]
    assert lines[-1] == SUCCESS


async def test_an_unknown_name_ends_in_ollamas_words(host: str, tmp_path: Path) -> None:
    async with beside(tmp_path, host) as here:
        lines = here.pull(named(host, "nosuch"))
        assert await anext(lines) == Progress("pulling manifest")
        with pytest.raises(RegistryFailed, match=r"^pull model manifest: file does not exist$"):
            await anext(lines)


async def test_the_push_of_what_is_not_here(host: str, tmp_path: Path) -> None:
    async with beside(tmp_path, host) as here:
        lines = push(here.registry(named(host, "none")), here.store)
        assert [(await anext(lines)).status for _ in range(2)] == [
            "retrieving manifest",
            "couldn't retrieve manifest",
        ]
        with pytest.raises(RegistryFailed, match=r"^open manifests/.*/none/latest: no such file"):
            await anext(lines)


async def test_a_tag_that_changed_says_what_was_removed(host: str, tmp_path: Path) -> None:
    name = named(host, "moves")
    async with beside(tmp_path / "a", host) as a, beside(tmp_path / "b", host) as b:
        for content in (b"one", b"two"):
            a.put(name, model_of(content, b"{}"))
            await pushed(a, name)
            lines = await told(b.pull(name))
        assert statuses(lines)[-3:] == ["writing manifest", "removing unused layers", "success"]
        assert not b.has(digest_of(b"one"))
        assert b.has(digest_of(b"two"))


async def test_an_empty_blob(host: str, tmp_path: Path) -> None:
    name, model = named(host, "empty"), model_of(b"", b"{}")
    async with beside(tmp_path / "a", host) as a, beside(tmp_path / "b", host) as b:
        a.put(name, model)
        await pushed(a, name)
        await told(b.pull(name))
        assert b.holds(model)


async def test_a_blob_of_another_model_there_is_mounted(host: str, tmp_path: Path) -> None:
    base, name = named(host, "base"), named(host, "derived")
    data = os.urandom(100_000)
    model = model_of(data, b"{}")
    derived = model.raw.replace(b'"size": 100000', f'"size": 100000, "from": "{base.canonical}"'.encode())
    async with beside(tmp_path, host) as here:
        here.put(base, model)
        await pushed(here, base)
        here.store.manifests.write(name, derived)
        lines = await pushed(here, name)
        assert lines[-1] == SUCCESS
        url = f"http://{host}/v2/library/derived/blobs/{model.largest}"
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(url)).content == data
