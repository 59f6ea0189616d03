"""What Ollama's command line sends, request by request, and what it needs of the answers (docs/reference 19).

The requests are those that the program was seen to send: its bodies, its headers and its order. It is not
run here.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.managed import Site, digest_of, gguf, managed

SHORT_DIGEST = 12
"""The program cuts digests there without looking at their length."""


class CommandLine:
    """Sends as the program does; each method is a command and fails where that would end with status 1."""

    def __init__(self, site: Site) -> None:
        self._client = site.client

    async def ls(self) -> list[str]:
        models = (await self._get("/api/tags"))["models"]
        assert all(len(model["digest"]) >= SHORT_DIGEST for model in models)
        return [model["name"] for model in models]

    async def ps(self) -> list[str]:
        models = (await self._get("/api/ps"))["models"]
        assert all(len(model["digest"]) >= SHORT_DIGEST for model in models)
        return [model["name"] for model in models]

    async def show(self, name: str) -> Any:
        answer = await self._show(name)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def run(self, name: str, prompt: str) -> str:
        await self._head()
        if (await self._show_of_run(name)).status_code == 404:
            await self._pulled(name)
            assert (await self._show_of_run(name)).status_code == 200
        body = {"model": name, "prompt": prompt, "suffix": "", "system": "", "template": "", "options": {}}
        lines = await self._lines("POST", "/api/generate", body)
        assert lines[-1]["done"]
        return "".join(line["response"] for line in lines)

    async def save(self, name: str, saved: str, **session: Any) -> None:
        """`/save` in a chat with `name`."""
        base = (await self.show(name))["details"].get("parent_model") or name
        body = {"model": saved, "from": base, **session}
        assert (await self._lines("POST", "/api/create", body))[-1] == {"status": "success"}

    async def create(
        self, name: str, base: str = "", files: dict[str, bytes] | None = None, **more: Any
    ) -> None:
        await self._head()
        digests = {file: digest_of(data) for file, data in (files or {}).items()}
        for file, data in (files or {}).items():
            answer = await self._client.post(
                f"/api/blobs/{digests[file]}",
                content=_pieces(data),
                headers={"content-type": "application/json"},
            )
            assert answer.status_code in (200, 201), answer.text
        body: dict[str, Any] = {"model": name, "from": base, "template": "", "license": None, "system": ""}
        body |= {"parameters": None, "messages": None, "name": "", **more}
        if digests:
            body["files"] = digests
        assert (await self._lines("POST", "/api/create", body))[-1] == {"status": "success"}

    async def cp(self, source: str, destination: str) -> None:
        await self._head()
        body = {"source": source, "destination": destination}
        answer = await self._client.post("/api/copy", json=body)
        assert (answer.status_code, answer.content) == (200, b"")

    async def rm(self, name: str) -> None:
        await self._head()
        if (await self._show(name)).status_code == 200:
            await self._unload(name)
        answer = await self._client.request("DELETE", "/api/delete", json={"model": "", "name": name})
        assert (answer.status_code, answer.content) == (200, b""), answer.text

    async def stop(self, name: str) -> None:
        await self._head()
        assert (await self._show(name)).status_code == 200
        await self._unload(name)

    async def pull(self, name: str) -> None:
        await self._head()
        await self._pulled(name)

    async def _pulled(self, name: str) -> None:
        body = {"model": "", "username": "", "password": "", "name": name}
        lines = await self._lines("POST", "/api/pull", body)
        assert lines[-1] == {"status": "success"}, lines

    async def _unload(self, name: str) -> None:
        body = {"model": name, "prompt": "", "suffix": "", "system": "", "template": "", "keep_alive": "0s"}
        answer = await self._client.post("/api/generate", json={**body, "options": None})
        assert answer.status_code == 200, answer.text

    async def _show(self, name: str) -> httpx.Response:
        await self._head()
        body = {"model": "", "system": "", "template": "", "verbose": False, "options": None, "name": name}
        return await self._client.post("/api/show", json=body)

    async def _show_of_run(self, name: str) -> httpx.Response:
        body = {"model": name, "system": "", "template": "", "verbose": False, "options": None}
        return await self._client.post("/api/show", json=body)

    async def _head(self) -> None:
        assert (await self._client.head("/")).status_code == 200

    async def _get(self, path: str) -> Any:
        await self._head()
        answer = await self._client.get(path)
        assert answer.status_code == 200
        return answer.json()

    async def _lines(self, method: str, path: str, body: Any) -> list[Any]:
        answer = await self._client.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data[:100]
    yield data[100:]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site]:
    async with managed(tmp_path) as made:
        yield made


@pytest.mark.point(237)
async def test_every_command_ends_well(site: Site) -> None:
    program = CommandLine(site)
    assert await program.ls() == ["plain:latest"]
    await program.pull("plain")
    assert await program.run("plain", "Hi")
    assert await program.ps() == ["plain:latest"]
    await program.create("poet", "plain", system="You rhyme.", parameters={"temperature": 0.5})
    assert (await program.show("poet"))["system"] == "You rhyme."
    await program.create("file", files={"w.gguf": gguf()})
    await program.cp("poet", "bard")
    assert sorted(await program.ls()) == ["bard:latest", "file:latest", "plain:latest", "poet:latest"]
    assert await program.run("bard", "Hi")
    await program.stop("bard")
    assert await program.ps() == []
    for name in ("poet", "bard", "file"):
        await program.rm(name)
    assert await program.ls() == ["plain:latest"]


@pytest.mark.point(237)
async def test_a_conversation_is_saved(site: Site) -> None:
    program = CommandLine(site)
    messages = [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "Hi"}]
    session = {"system": "Rhyme.", "parameters": {"temperature": 0, "stop": ["x"]}, "messages": messages}
    await program.save("plain", "kept", **session)
    await program.save("kept", "again", **session)
    assert (await program.show("again"))["messages"] == messages
    assert await program.run("again", "Hi")
    assert len(site.loads) == 1
