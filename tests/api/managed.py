"""A server whose models come and go, over scripted engines, and what its tests send."""

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from app.catalogue.library import Library
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.main import build_app
from app.runtime.lifecycle import Lifecycle
from app.runtime.transfers import Transfers
from app.settings.server import read_settings
from app.store.store import Store
from harness.fake_model import fake_model
from harness.tiny_gguf import gguf

__all__ = ["Site", "digest_of", "gguf", "inside", "managed"]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Site:
    """A client of the server, its store and the models whose engines were started."""

    client: httpx.AsyncClient
    store: Store
    library: Library
    transfers: Transfers
    loads: list[Model] = field(default_factory=list[Model])
    engines: list[FakeEngine] = field(default_factory=list[FakeEngine])
    lifecycle: Lifecycle = field(default_factory=Lifecycle)

    async def send(self, path: str, **body: Any) -> httpx.Response:
        return await self.client.post(path, json=body)

    async def lines(self, path: str, **body: Any) -> list[Any]:
        answer = await self.send(path, **body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in answer.text.splitlines()]

    async def made(self, **body: Any) -> list[Any]:
        """The lines of a create that succeeds."""
        lines = await self.lines("/api/create", **body)
        assert lines[-1] == {"status": "success"}, lines
        return lines

    async def uploaded(self, data: bytes) -> str:
        digest = digest_of(data)
        answer = await self.client.post(f"/api/blobs/{digest}", content=data)
        assert answer.status_code in (200, 201), answer.text
        return digest

    async def names(self) -> list[str]:
        return sorted(item["name"] for item in (await self.client.get("/api/tags")).json()["models"])

    async def shown(self, name: str) -> Any:
        answer = await self.send("/api/show", model=name)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def answer(self, name: str) -> httpx.Response:
        return await self.send("/api/generate", model=name, prompt="Hi", stream=False)


def inside(app: Any) -> FastAPI:
    """The application beneath the layers that are not Starlette's."""
    while not isinstance(app, FastAPI):
        app = app._app
    return app


@asynccontextmanager
async def managed(
    folder: Path, *models: Model, on_gpu: bool = False, **settings: Any
) -> AsyncGenerator[Site]:
    """A server of `models`, by default one named `plain`, and of the store in `folder`."""
    library = Library(models or (fake_model("plain", "completion"),))
    loads: list[Model] = []
    engines: list[FakeEngine] = []

    async def start(model: Model) -> FakeEngine:
        loads.append(model)
        engines.append(FakeEngine(adapter_rank=library.adapter_rank(model)))
        return engines[-1]

    root = folder / "models"
    read = read_settings(preload=False, models_dir=root, cache_dir=folder / "cache", **settings)
    app = build_app(read, library, start, on_gpu=on_gpu)
    inner = inside(app)
    async with (
        inner.router.lifespan_context(inner),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        served = inner.state.services
        yield Site(client, Store(root), library, served.transfers, loads, engines, served.lifecycle)
