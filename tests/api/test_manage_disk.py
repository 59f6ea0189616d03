"""A store that cannot be written to: each route says so, nothing changes, and serving goes on."""

import errno
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.managed import Site, digest_of, gguf, managed
from tests.api.test_manage_attacks import tree
from tests.registry.faulty import faulty
from tests.registry.models import model_of

PULLED = model_of(gguf(7), b"{}")


async def asked(site: Site, host: str) -> dict[str, httpx.Response]:
    """What each route that writes answers."""
    data = gguf(3)
    made = {"model": "made", "from": "plain", "system": "Made.", "stream": False}
    return {
        "blob": await site.client.post(f"/api/blobs/{digest_of(data)}", content=data),
        "create": await site.send("/api/create", **made),
        "copy": await site.send("/api/copy", source="here", destination="copied"),
        "pull": await site.send("/api/pull", model=f"{host}/library/m", insecure=True, stream=False),
    }


@pytest.mark.parametrize(
    ("number", "status", "text"),
    [
        (errno.ENOSPC, 507, "the model store of this server is full"),
        (errno.EDQUOT, 507, "the model store of this server is full"),
        (errno.EROFS, 403, "the model store of this server is read-only"),
        (errno.EIO, 500, "the model store of this server failed"),
    ],
)
async def test_what_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int, text: str
) -> None:
    def failing(*_arguments: Any, **_named: Any) -> None:
        raise OSError(number, os.strerror(number), "/secret/path")

    async with (
        faulty(PULLED) as registry,
        managed(
            tmp_path,
            registry_allow=[registry.host],
            registry_insecure=True,
            fetch_allow=[registry.host, "127.0.0.1"],
        ) as site,
    ):
        await site.made(model="here", **{"from": "plain"}, system="Here.")
        before = tree(site.store.root)
        for call in ("write", "pwrite", "fsync", "rename"):
            with monkeypatch.context() as patched:
                patched.setattr(os, call, failing)
                answers = await asked(site, registry.host)
                assert (await site.answer("here")).status_code == 200
            # What is sent whole is not written by `write`, and a manifest not by `pwrite`.
            written = {name for name, answer in answers.items() if answer.status_code in (200, 201)}
            assert written <= (
                {"blob"} if call == "write" else {"create", "copy"} if call == "pwrite" else set()
            )
            for name, answer in answers.items():
                if name not in written:
                    assert answer.status_code == status, (call, name, answer.text)
                    assert answer.json()["error"].startswith(text), (call, name)
                    assert "/secret" not in answer.text
            for model in ("made", "copied"):
                await site.client.request("DELETE", "/api/delete", json={"model": model})
            site.store.blobs.remove(digest_of(gguf(3)))
            site.store.prune(grace_s=-60)  # a mark of what was about to be put there
            after = tree(site.store.root)
            changed = {name for name, data in after.items() if data is not None and before.get(name) != data}
            # What came of a pull is kept, for the next one.
            assert {name for name in changed if digest_of(gguf(7))[7:] not in name} == set(), call
            assert before.keys() <= after.keys(), call
        answers = await asked(site, registry.host)
        assert {name: answer.status_code for name, answer in answers.items()} == {
            "blob": 201,
            "create": 200,
            "copy": 200,
            "pull": 200,
        }
        assert (await site.answer(f"{registry.host}/library/m")).status_code == 200
