"""Blobs by digest: a key with a list of models names those of its models, and those that it has sent."""

import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.access.keys import new_key
from app.core.context import Caller
from app.runtime.reach import KEPT_S, SENT, Reach
from app.store.config import Serving
from app.store.manifest import SERVING
from app.store.store import Store
from tests.api.managed import Site, digest_of, gguf, managed
from tests.registry.faulty import Reply, faulty
from tests.registry.models import model_of
from tests.unit.catalogue_folders import make_folder
from tests.unit.lora_files import lora, lora_config

KEYS = {name: new_key(name) for name in ("all", "mine", "other")}
WEIGHTS = gguf()
HIDDEN = digest_of(WEIGHTS)
SCOPES = ["inference", "models:read", "models:write"]


def keys_file(folder: Path) -> Path:
    file = folder / "keys.yaml"
    records: list[Mapping[str, Any]] = [
        {
            "id": name,
            "hash": KEYS[name][1],
            "scopes": SCOPES,
            **({} if name == "all" else {"models": ["mine*", "127.0.0.1:*"]}),
        }
        for name in KEYS
    ]
    file.write_text(yaml.safe_dump({"keys": records}))
    return file


def act_as(site: Site, name: str) -> None:
    site.client.headers["authorization"] = f"Bearer {KEYS[name][0]}"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site]:
    async with managed(tmp_path, keys_file=keys_file(tmp_path)) as made:
        act_as(made, "all")
        digest = await made.uploaded(WEIGHTS)
        await made.made(model="hidden", files={"w.gguf": digest})
        act_as(made, "mine")
        yield made


async def has(site: Site, digest: str) -> int:
    return (await site.client.head(f"/api/blobs/{digest}")).status_code


async def created(site: Site, **body: Any) -> tuple[int, str]:
    answer = await site.send("/api/create", model="mine", stream=False, **body)
    return answer.status_code, answer.text


async def test_a_blob_of_others_is_as_one_that_is_not_here(site: Site) -> None:
    absent = "sha256:" + "ab" * 32
    assert [await has(site, digest) for digest in (HIDDEN, absent)] == [404, 404]
    (status, text), there = [await created(site, files={"w.gguf": digest}) for digest in (absent, HIDDEN)]
    assert (status, "no such file" in text) == (500, True), text
    assert there == (status, text.replace(absent[7:], HIDDEN[7:]))
    assert (await site.send("/api/generate", model="mine", prompt="Hi")).status_code == 404
    act_as(site, "all")
    assert await has(site, HIDDEN) == 200


async def test_an_adapter_of_others_neither(site: Site) -> None:
    act_as(site, "all")
    files = {
        "adapter_config.json": await site.uploaded(lora_config()),
        "adapter_model.safetensors": await site.uploaded(lora()),
    }
    act_as(site, "mine")
    await site.uploaded(WEIGHTS)
    status, text = await created(site, files={"w.gguf": HIDDEN}, adapters=files)
    assert (status, "no such file" in text) == (500, True), text


async def test_sending_it_shows_that_the_key_has_it(site: Site) -> None:
    wrong = await site.client.post(f"/api/blobs/{HIDDEN}", content=WEIGHTS[:-1])
    assert wrong.status_code == 400
    assert "digest mismatch" in wrong.text
    assert await has(site, HIDDEN) == 404
    sent = await site.client.post(f"/api/blobs/{HIDDEN}", content=WEIGHTS)
    assert sent.status_code == 201, "as if it were new"
    assert await has(site, HIDDEN) == 200
    again = await site.client.post(f"/api/blobs/{HIDDEN}", content=b"")
    assert again.status_code == 200, "and then it is not read again"
    act_as(site, "other")
    assert await has(site, HIDDEN) == 404, "another key has not"
    act_as(site, "mine")
    await site.made(model="mine", files={"w.gguf": HIDDEN})
    act_as(site, "other")
    assert await has(site, HIDDEN) == 200, "now it is that of a model which both may use"


async def test_a_blob_that_was_new_is_the_senders(site: Site) -> None:
    """Also at another server on the same store, and after a restart: it is written down there."""
    data = gguf("another")
    assert (await site.client.post(f"/api/blobs/{digest_of(data)}", content=data)).status_code == 201
    assert await has(site, digest_of(data)) == 200
    elsewhere = Store(site.store.root)
    for key_id, lacking in (("mine", set[str]()), ("other", {digest_of(data)})):
        caller = Caller(key_id, models=frozenset({"mine*"}))
        assert Reach(elsewhere, caller).lacking([digest_of(data)]) == lacking


def test_that_counts_for_a_day(tmp_path: Path) -> None:
    reach = Reach(Store(tmp_path), Caller("k", models=frozenset({"x"})))
    digests = [digest_of(b"%d" % number) for number in range(2_000)]
    old = digests[0]
    reach.sent(old)
    assert reach.lacking([old]) == set()
    assert Reach(reach.store).lacking([old]) == set()
    (mark,) = tmp_path.joinpath(*SENT).iterdir()
    old_s = mark.stat().st_mtime - KEPT_S - 1
    os.utime(mark, (old_s, old_s))
    assert reach.lacking([old]) == {old}
    for digest in digests[1:]:
        reach.sent(digest)
    assert not mark.exists(), "and is removed some day"


async def test_a_manifest_gives_no_repository_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody else had fetched of the hub, with the server's token perhaps, is in the cache for all."""
    cached = make_folder(tmp_path / "cached")
    monkeypatch.setattr("app.catalogue.stored.repository_folder", lambda _serving: cached)
    model = model_of(Serving(repository="org/gated", revision="main").encode(), b"{}", media_type=SERVING)
    async with faulty(model) as registry:
        reaching: dict[str, Any] = {
            "registry_allow": [registry.host, "hf.co"],
            "registry_insecure": True,
            "fetch_allow": ["127.0.0.1", registry.host],
        }
        async with managed(tmp_path, keys_file=keys_file(tmp_path), **reaching) as site:
            name = f"{registry.host}/library/mine"
            act_as(site, "mine")
            refused = await site.send("/api/pull", model=name, insecure=True, stream=False)
            assert "does not allow the model hf.co/org/gated" in refused.text
            act_as(site, "all")
            pulled = await site.send("/api/pull", model=name, insecure=True, stream=False)
            assert pulled.json() == {"status": "success"}
            assert name in " ".join(await site.names())


async def test_a_manifest_gives_nothing_that_the_registry_has_not(tmp_path: Path) -> None:
    async with faulty(model_of(WEIGHTS, b'{"model_format":"gguf"}')) as registry:
        reaching: dict[str, Any] = {
            "registry_allow": [registry.host],
            "registry_insecure": True,
            "fetch_allow": ["127.0.0.1", registry.host],
        }
        async with managed(tmp_path, keys_file=keys_file(tmp_path), **reaching) as site:
            act_as(site, "all")
            await site.made(model="hidden", files={"w.gguf": await site.uploaded(WEIGHTS)})
            act_as(site, "mine")
            name = f"{registry.host}/library/mine"
            registry.answer = lambda asked: Reply(404) if asked.path.endswith(HIDDEN) else None
            refused = await site.send("/api/pull", model=name, insecure=True, stream=False)
            assert "file does not exist" in refused.text, refused.text
            registry.answer = lambda asked: None
            pulled = await site.send("/api/pull", model=name, insecure=True, stream=False)
            assert pulled.json() == {"status": "success"}
            assert await has(site, HIDDEN) == 200
            assert (await site.answer(name)).status_code == 200
