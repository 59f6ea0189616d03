"""What Ollama's command line sends, request by request, and what it needs of the answers (docs/reference 19).

The requests are those that the program was seen to send: its bodies, its headers and its order. It is not
run here.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml

from app.access.ring import NO_KEY
from tests.api.managed import Site, digest_of, gguf, managed
from tests.signing import Signer

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

    async def push(self, name: str) -> list[Any]:
        """The lines; the program goes on to push only if it learns who it is, whatever the name."""
        await self._head()
        await self.signin()
        lines = await self._lines("POST", "/api/push", {"name": name})
        assert any(line.get("status") and not line.get("digest") for line in lines)
        return lines

    async def signin(self) -> str:
        """As whom the user is said to be signed in."""
        await self._head()
        answer = await self._client.post("/api/me")
        assert answer.status_code == 200, answer.text
        user = answer.json()
        if "id" in user:
            UUID(user["id"])
        return user["name"]

    async def signout(self) -> str:
        """What is printed."""
        await self._head()
        answer = await self._client.post("/api/signout")
        if answer.status_code == 401:
            return "You are not signed in to ollama.com"
        if answer.status_code >= 400:
            return f"Error: {answer.json()['error']}"
        return "You have signed out of ollama.com"

    async def menu(self) -> list[str]:
        """The models that are offered; web search is not where the cloud is disabled."""
        await self.ls()
        assert (await self._get("/api/status"))["cloud"]["disabled"]
        offered = (await self._get("/api/experimental/model-recommendations"))["recommendations"]
        assert offered, "the program would show a list of its own"
        assert all(model["description"] for model in offered)
        return [model["model"] for model in offered]

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


SIGNER = Signer(bytes(range(32)))


def keys_file(folder: Path) -> Path:
    """A key of the person whose program signs."""
    scopes = ["inference", "models:read", "models:write"]
    record = {"id": "ann", "name": "Ann", "public_key": SIGNER.public_key, "scopes": scopes}
    file = folder / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": [record]}))
    return file


@pytest.fixture(params=["open", "signed"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Site]:
    """Without keys, and with one that opens everything, the root too (OLLAMA_AUTH=1)."""
    if request.param == "open":
        async with managed(tmp_path) as made:
            yield made
        return
    async with managed(tmp_path, keys_file=keys_file(tmp_path), open_paths=[]) as made:
        made.client.auth = SIGNER
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
    for name in ("bard", "plain"):  # with keys, each name has a claim of its own to the engine
        await program.stop(name)
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


@pytest.mark.point(237)
async def test_a_conversation_with_thinking_tools_and_pictures_is_saved_whole(site: Site) -> None:
    """The program ends at the refusal of a save, and the conversation with it."""
    program = CommandLine(site)
    messages = [
        {"role": "user", "content": "Is it warm?", "images": ["aGk="]},
        {
            "role": "assistant",
            "content": "",
            "thinking": "I do not know.",
            "tool_calls": [{"id": "1", "function": {"name": "weather", "arguments": {"city": "Paris"}}}],
        },
        {"role": "tool", "content": "22", "tool_name": "weather", "tool_call_id": "1"},
        {"role": "assistant", "content": "It is.", "thinking": "22 is warm."},
    ]
    await program.save("plain", "kept", messages=messages)
    await program.save("kept", "again", messages=[*messages, {"role": "user", "content": "Thanks"}])
    assert (await program.show("kept"))["messages"] == messages
    assert (await program.show("again"))["messages"][:-1] == messages
    assert await program.run("again", "Hi")
    seen = site.engines[0].renderings[-1].chat.messages
    call = seen[1].tool_calls[0]
    assert (call.name, call.arguments, call.id) == ("weather", {"city": "Paris"}, "1")
    assert [each.thinking for each in seen[:4]] == ["", "I do not know.", "", "22 is warm."]
    assert (seen[2].tool_name, seen[2].tool_call_id) == ("weather", "1")
    assert not seen[0].images, "the model does not see"


# Who asks


async def test_the_menu_offers_what_is_served(site: Site) -> None:
    program = CommandLine(site)
    await program.create("poet", "plain", system="You rhyme.")
    assert sorted(await program.menu()) == ["plain:latest", "poet:latest"]


async def test_who_one_is_and_that_nobody_is_signed_out(site: Site) -> None:
    program = CommandLine(site)
    assert await program.signin() == ("Ann" if site.client.auth else "anonymous")
    told = "signing out changes nothing here: there are no accounts, and a key is good until it is revoked"
    assert await program.signout() == f"Error: {told}"
    assert await program.ls()


async def test_a_push_comes_as_far_as_the_push(site: Site) -> None:
    """And does not end in the text that tells to sign in to another server."""
    assert "nosuch" in (await CommandLine(site).push("nosuch"))[-1]["error"]


def printed(command: str, answer: httpx.Response) -> str:
    """What the program shows of a 401, of which it reads no `error` (docs/reference 19.4)."""
    assert answer.status_code == 401
    told = answer.json() if answer.content else {}
    if command in BY_PAGE:
        return f"You need to be signed in. {told.get('signin_url', '')}"
    return f"Error: {told.get('status') or 'something went wrong, please see the ollama server logs'}"


FIRST = {
    "list": ("GET", "/api/tags"),
    "ps": ("GET", "/api/ps"),
    "show": ("POST", "/api/show"),
    "stop": ("POST", "/api/show"),
    "rm": ("DELETE", "/api/delete"),
    "cp": ("POST", "/api/copy"),
    "run": ("POST", "/api/show"),
    "push": ("POST", "/api/me"),
    "signin": ("POST", "/api/me"),
}
"""The request at which each command ends where there is no key."""

BY_PAGE = ("run", "push", "signin")
"""Commands that speak of Ollama's own accounts, whatever is told, and show `signin_url`."""


@pytest.mark.parametrize("page", ["", "https://keys.example.com/"])
async def test_without_a_key_each_command_says_why(tmp_path: Path, page: str) -> None:
    async with managed(tmp_path, keys_file=keys_file(tmp_path), signin_url=page) as site:
        assert (await site.client.head("/")).status_code == 200
        for command, (method, path) in FIRST.items():
            found = printed(command, await site.client.request(method, path))
            if command in BY_PAGE:
                assert found == f"You need to be signed in. {page}"
            else:
                assert found == f"Error: {NO_KEY}"


async def test_where_the_root_is_closed_nothing_can_be_said(tmp_path: Path) -> None:
    """An answer to HEAD has no body, so the root is open unless an operator closes it."""
    async with managed(tmp_path, keys_file=keys_file(tmp_path), open_paths=[]) as site:
        assert "something went wrong" in printed("list", await site.client.head("/"))
