"""LoRA adapters over HTTP: listed, run on their base's engine, copied, deleted, over scripted engines."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.catalogue.stored import StoredModels
from app.core.errors import LoadFailed
from app.core.model import Model
from harness.fake_model import fake_model
from tests.api.managed import Site, digest_of, gguf, managed
from tests.unit.lora_files import MODULE, base_folder, lora, lora_config


def base_in(folder: Path, *capabilities: Any) -> Model:
    """A configured model whose weights lie there."""
    model = fake_model("plain", *(capabilities or ("completion",)))
    return replace(model, facts=replace(model.facts, path=base_folder(folder / "base")))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site]:
    async with managed(tmp_path, base_in(tmp_path)) as site:
        yield site


async def uploaded(site: Site, weights: bytes | None = None, **config: Any) -> dict[str, str]:
    return {
        "adapter_model.safetensors": await site.uploaded(lora() if weights is None else weights),
        "adapter_config.json": await site.uploaded(lora_config(**config)),
    }


async def refused(site: Site, **body: Any) -> httpx.Response:
    """The answer to a create that leaves the store as it was."""
    before = [stored.digest for stored in site.store.manifests.list().models]
    answer = await site.send("/api/create", model="bad", stream=False, **body)
    assert [stored.digest for stored in site.store.manifests.list().models] == before
    return answer


async def test_a_model_with_an_adapter_runs_on_its_base(site: Site) -> None:
    files = await uploaded(site)
    lines = await site.made(model="one", **{"from": "plain"}, adapters=files, system="Be brief.")
    assert lines[0] == {"status": "converting adapter"}
    two = await uploaded(site, lora(fill=0.25))
    await site.made(model="two", **{"from": "plain"}, adapters=two)
    await site.made(model="same", **{"from": "plain"}, adapters=files)
    for name in ("one", "plain", "two", "same"):
        assert (await site.answer(name)).status_code == 200
    assert [model.name.model for model in site.loads] == ["one"], "one load for all of them"
    adapters = [asked.run.adapter for asked in site.engines[0].asked]
    assert adapters[1] is None
    digests = [adapter.digest for adapter in adapters if adapter is not None]
    assert digests[0] == digests[2] != digests[1]
    items = (await site.client.get("/api/tags")).json()["models"]
    assert len({item["digest"] for item in items}) == 4
    running = (await site.client.get("/api/ps")).json()["models"]
    assert [item["name"] for item in running] == ["one:latest"]


async def test_show_tells_of_it(site: Site) -> None:
    await site.made(model="one", **{"from": "plain"}, adapters=await uploaded(site))
    shown = await site.shown("one")
    lines = shown["modelfile"].splitlines()
    adapter = site.library.find("one").adapter
    assert adapter is not None
    assert f"ADAPTER {adapter.path}" in lines
    assert (
        lines.index(f"ADAPTER {adapter.path}")
        == next(number for number, line in enumerate(lines) if line.startswith("FROM ")) + 1
    )
    assert shown["details"]["parent_model"] == "plain:latest"


async def test_it_survives_a_restart_a_copy_and_the_end_of_its_source(tmp_path: Path) -> None:
    async with managed(tmp_path, base_in(tmp_path)) as site:
        await site.made(model="one", **{"from": "plain"}, adapters=await uploaded(site))
        await site.made(model="derived", **{"from": "one"}, system="Hi")
        assert (await site.send("/api/copy", source="one", destination="copy")).status_code == 200
        answer = await site.client.request("DELETE", "/api/delete", json={"model": "one"})
        assert answer.status_code == 200
    async with managed(tmp_path, base_in(tmp_path)) as site:
        assert await site.names() == ["copy:latest", "derived:latest", "plain:latest"]
        for name in ("copy", "derived"):
            assert (await site.answer(name)).status_code == 200
            assert site.engines[0].asked[-1].run.adapter is not None
        assert site.engines[0].forgotten == []


async def test_a_deleted_one_is_forgotten_and_its_base_stays(site: Site) -> None:
    await site.made(model="one", **{"from": "plain"}, adapters=await uploaded(site))
    assert (await site.answer("one")).status_code == 200
    adapter = site.library.find("one").adapter
    await site.client.request("DELETE", "/api/delete", json={"model": "one"})
    assert site.engines[0].forgotten == [adapter]
    assert (await site.answer("plain")).status_code == 200
    assert (await site.answer("one")).status_code == 404
    assert len(site.loads) == 1
    blobs = [path for path in (site.store.root / "blobs").iterdir() if path.is_file()]
    assert blobs == []


async def test_the_first_adapter_waits_for_what_runs(site: Site) -> None:
    gate = asyncio.Event()
    assert (await site.answer("plain")).status_code == 200
    site.engines[0].gate = gate
    running = asyncio.create_task(site.answer("plain"))
    while not site.engines[0].metrics()["running"]:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0)
    await site.made(model="one", **{"from": "plain"}, adapters=await uploaded(site))
    waiting = asyncio.create_task(site.answer("one"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert len(site.loads) == 1
    gate.set()
    assert (await running).json()["response"]
    assert (await waiting).status_code == 200
    assert [engine.closed for engine in site.engines] == [True, False]
    await site.made(model="two", **{"from": "plain"}, adapters=await uploaded(site, lora(fill=0.1)))
    assert (await site.answer("two")).status_code == 200
    assert len(site.loads) == 2, "later ones need no load"


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (("a.gguf",), "adapters in GGUF are not served"),
        (("a.gguf", "b.gguf"), "only one adapter is currently supported"),
        (("adapter_model.bin",), "unknown type"),
        (("adapter_config.json",), "unknown type"),
        (("adapter_model.safetensors",), "an adapter has the files"),
        (("adapter_model.safetensors", "adapter_config.json", "more.safetensors"), "and no other weights"),
        (("adapter_model.safetensors", "adapter_config.json", "x.bin"), "and no other weights"),
        (("../adapter_model.safetensors",), "file path must be relative"),
    ],
)
async def test_files_that_are_no_adapter(site: Site, names: tuple[str, ...], error: str) -> None:
    digest = await site.uploaded(b"x" * 100)
    answer = await refused(site, **{"from": "plain"}, adapters=dict.fromkeys(names, digest))
    assert answer.status_code == 400
    assert error in answer.json()["error"]


async def test_other_json_files_of_its_folder_are_kept(site: Site) -> None:
    files = await uploaded(site) | {"tokenizer_config.json": await site.uploaded(b"{}")}
    await site.made(model="one", **{"from": "plain"}, adapters=files)
    assert (await site.answer("one")).status_code == 200


@pytest.mark.parametrize(
    ("weights", "config", "error"),
    [
        (lora()[:-1], {}, "not a sound safetensors file"),
        (lora({MODULE: (16, 9)}), {}, "the base has [16, 8]"),
        (lora(), {"use_dora": True}, "use_dora"),
        (lora(rank=80), {"r": 80}, "its rank is 80, of at most 64"),
        (lora(fill=float("nan")), {}, "no numbers"),
    ],
)
async def test_a_bad_adapter_is_refused(
    site: Site, weights: bytes, config: dict[str, Any], error: str, tmp_path: Path
) -> None:
    answer = await refused(site, **{"from": "plain"}, adapters=await uploaded(site, weights, **config))
    assert answer.status_code == 400
    assert error in answer.json()["error"]
    assert str(tmp_path) not in answer.text


async def test_a_blob_that_was_not_uploaded(site: Site) -> None:
    files = await uploaded(site) | {"adapter_model.safetensors": digest_of(b"nowhere")}
    answer = await refused(site, **{"from": "plain"}, adapters=files)
    assert answer.status_code == 500
    assert "no such file or directory" in answer.json()["error"]


async def test_one_model_has_one_adapter(site: Site) -> None:
    await site.made(model="one", **{"from": "plain"}, adapters=await uploaded(site))
    answer = await refused(site, **{"from": "one"}, adapters=await uploaded(site, lora(fill=0.1)))
    assert (answer.status_code, answer.json()["error"]) == (400, "only one adapter is currently supported")


async def test_what_embeds_has_none(tmp_path: Path) -> None:
    async with managed(tmp_path, base_in(tmp_path, "embedding")) as site:
        answer = await refused(site, **{"from": "plain"}, adapters=await uploaded(site))
        assert answer.status_code == 400
        assert "generates text" in answer.json()["error"]


async def test_a_base_of_gguf_is_converted_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter is held against the weights that are served."""

    def convert(_self: StoredModels, model: Model, _moved: object) -> None:
        raise LoadFailed(f"model '{model.name}': no weights came of it")

    monkeypatch.setattr(StoredModels, "convert", convert)
    blob = await site.uploaded(gguf())
    files = await uploaded(site)
    answer = await refused(site, files={"m.gguf": blob}, adapters=files)
    lines = (await site.send("/api/create", model="bad", files={"m.gguf": blob}, adapters=files)).text
    assert '{"status":"converting model"}' in lines.splitlines()
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "these files cannot be served: model 'bad:latest': no weights came of it",
    )
