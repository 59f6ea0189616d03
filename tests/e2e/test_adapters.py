"""Adapters that come over HTTP to a real server, while their base answers others."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from harness.models.build import build_lora
from harness.models.catalogue import GREETING, LONG_STORY
from harness.server import LiveServer, models, serving
from tests.conftest import loads_of

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

AHOY, DEGREES = "Ahoy, matey!", "It is 22 degrees in Paris."
FILES = ("adapter_config.json", "adapter_model.safetensors")


class Site:
    def __init__(self, server: LiveServer, client: httpx.AsyncClient) -> None:
        self.server, self.client = server, client

    async def chat(self, model: str, text: str = "Hello", began: asyncio.Event | None = None) -> str:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "options": {"temperature": 0, "num_ctx": 4096},
        }
        pieces: list[str] = []
        async with self.client.stream("POST", "/api/chat", json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                event = json.loads(line)
                assert "error" not in event, event
                pieces.append(event["message"]["content"])
                if began is not None:
                    began.set()
        return "".join(pieces)

    async def begun(self, model: str) -> asyncio.Task[str]:
        """A long answer, of which the first token is there."""
        began = asyncio.Event()
        task = asyncio.create_task(self.chat(model, "Write a long story.", began))
        await began.wait()
        return task

    async def go_on(self, model: str, until: asyncio.Event) -> list[str]:
        """One long answer after another, each whole."""
        answers: list[str] = []
        while not until.is_set():
            answers.append(await self.chat(model, "Write a long story."))
        return answers

    async def make(self, name: str, sentence: str) -> None:
        folder, digests = build_lora(sentence), dict[str, str]()
        for file in FILES:
            data = (folder / file).read_bytes()
            digests[file] = f"sha256:{hashlib.sha256(data).hexdigest()}"
            answer = await self.client.post(f"/api/blobs/{digests[file]}", content=data)
            assert answer.status_code in (200, 201)
        body: dict[str, Any] = {"model": name, "from": "llama", "adapters": digests, "stream": False}
        answer = await self.client.post("/api/create", json=body)
        assert answer.json() == {"status": "success"}, answer.text

    def loads(self) -> int:
        return loads_of(self.server)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Site]:
    scratch: Path = tmp_path_factory.mktemp("adapters")
    served = [model for model in models() if model["name"] == "llama"]
    with serving(served, scratch, CARAVAN_MODELS_DIR=str(scratch / "models")) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            yield Site(server, client)


async def test_adapters_come_and_go_while_others_are_answered(site: Site) -> None:
    story = await site.begun("llama")
    await site.make("ahoy", AHOY)
    first = asyncio.create_task(site.chat("ahoy"))
    waiting = asyncio.create_task(site.chat("llama"))
    assert await story == LONG_STORY, "the load that the adapter needs cuts no answer"
    assert (await first, await waiting) == (AHOY, GREETING)
    loads = await asyncio.to_thread(site.loads)
    assert loads == 2

    story, done = await site.begun("llama"), asyncio.Event()
    stories = [asyncio.create_task(site.go_on("llama", done)) for _ in range(2)]
    await site.make("degrees", DEGREES)
    answers = await asyncio.gather(*(site.chat(name) for name in ("degrees", "llama", "ahoy")))
    assert answers == [DEGREES, GREETING, AHOY]
    deleted = await site.client.request("DELETE", "/api/delete", json={"model": "degrees"})
    assert deleted.status_code == 200
    done.set()
    answers = [await story, *await stories[0], *await stories[1]]
    assert answers == [LONG_STORY] * len(answers), "what is under way hears nothing of it"
    answer = await site.client.post("/api/generate", json={"model": "degrees", "prompt": "Hello"})
    assert answer.status_code == 404
    assert await site.chat("ahoy") == AHOY
    assert await asyncio.to_thread(site.loads) == loads, "later adapters need no load"
    shown = (await site.client.post("/api/show", json={"model": "ahoy"})).json()
    assert "\nADAPTER " in shown["modelfile"]
    assert shown["details"]["parent_model"] == "llama:latest"
