"""What large models of the store cost a server: shown beside the event loop, and read once, over HTTP."""

import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from app.api.ollama import models
from app.catalogue import weightfacts
from app.core.model import ModelName
from app.store.manifest import MESSAGES, Layer, Manifest
from tests.api.managed import Site, gguf, managed


@pytest.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site]:
    async with managed(tmp_path) as made:
        yield made


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each answer that was written, whether that was on the event loop."""
    seen: list[bool] = []
    dumps = models.dumps

    def counted(value: Any) -> bytes:
        seen.append(threading.current_thread() is threading.main_thread())
        return dumps(value)

    monkeypatch.setattr(models, "dumps", counted)
    return seen


LARGE: tuple[dict[str, Any], ...] = (
    {"license": "MIT"},
    {"system": "x" * (256 << 10)},
    {"messages": [{"role": "user", "content": "x"}] * 3000},
    {"messages": [{"role": "user", "content": "x" * (256 << 10)}]},
    {"parameters": {"x": ["x" * (256 << 10)]}},
)


@pytest.mark.parametrize("fields", LARGE, ids=lambda fields: next(iter(fields)))
async def test_a_large_model_is_shown_beside_the_event_loop(
    site: Site, threads: list[bool], fields: dict[str, Any]
) -> None:
    await site.made(model="large", **{"from": "plain"}, **fields)
    await site.made(model="small", **{"from": "plain"}, system="Be brief.")
    await site.shown("small")
    await site.shown("large")
    answer = await site.send("/api/show", model="small", verbose=True)
    assert answer.status_code == 200
    assert threads == [True, False, False]


async def test_a_model_that_goes_while_it_is_shown(site: Site) -> None:
    """The list is read again after the deletion, and a license is read when it is shown."""
    await site.made(model="m", **{"from": "plain"}, license="MIT")
    await site.made(model="other", **{"from": "plain"}, license="Apache")
    apache = site.store.manifests.find(ModelName("other"))
    assert apache is not None
    assert site.store.delete(ModelName("m"))
    answer = await site.send("/api/show", model="m")
    assert (answer.status_code, answer.json()) == (404, {"error": "model 'm:latest' not found"})
    await site.made(model="m", **{"from": "plain"}, license="BSD")
    site.store.manifests.write(ModelName("m"), apache.manifest)
    site.store.prune(grace_s=0)
    assert (await site.shown("m"))["license"] == "Apache", "as it is replaced by another process"


async def test_a_header_is_read_once_by_create_and_copy(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_gguf = weightfacts.read_gguf

    def counted(blob: Path) -> Any:
        read.append(blob.name)
        return read_gguf(blob)

    monkeypatch.setattr(weightfacts, "read_gguf", counted)
    await site.made(model="one", files={"w.gguf": await site.uploaded(gguf())})
    await site.made(model="two", **{"from": "one"}, template="{{ .Prompt }}", parameters={"seed": 1})
    for number in range(3):
        assert (await site.send("/api/copy", source="two", destination=f"c{number}")).status_code == 200
    assert len(await site.names()) == 6
    assert len(read) == 1


async def test_more_messages_than_a_chat_may_have_are_not_served(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """As pulled: others are listed as before, and the log says why once."""
    await site.made(model="here", **{"from": "plain"}, system="Here.")
    found = site.store.manifests.find(ModelName("here"))
    assert found is not None
    data = b"[" + b"{}," * 340_000 + b"{}]"
    layer = Layer(MESSAGES, site.store.blobs.put(data), len(data))
    site.store.manifests.write(ModelName("talk"), Manifest(None, (*found.manifest.layers, layer)))
    for _ in range(2):
        await site.library.reload(again=True)
    assert await site.names() == ["here:latest", "plain:latest"]
    assert (await site.answer("talk")).status_code == 404
    told = [record.getMessage() for record in caplog.records if "talk" in record.getMessage()]
    assert told == [
        "the stored model talk:latest is not served: messages: at most 10000, this model has 340001"
    ]
