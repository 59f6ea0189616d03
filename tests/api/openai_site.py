"""A server of scripted engines, asked as clients of OpenAI's API ask."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from app.catalogue.library import Library
from app.core.model import Model, ThinkingLevels
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Script
from app.main import build_app
from app.settings.server import read_settings
from harness.fake_model import fake_model

HI = {"role": "user", "content": "hi"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": CITY}}
DATA_URL = "data:image/png;base64,iVBORw0K"


@dataclass(frozen=True, slots=True)
class Site:
    client: httpx.AsyncClient
    engine: FakeEngine

    async def chat(self, *messages: Any, **fields: Any) -> httpx.Response:
        body = {"model": "m", "messages": messages or [HI], **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    async def complete(self, **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/completions", json={"model": "m", "prompt": "hi", **fields})

    @property
    def run(self) -> Any:
        """The last run that the engine was asked for."""
        return self.engine.asked[-1].run


def levelled(name: str, *levels: bool | str) -> Model:
    """A model whose levels of thinking are known."""
    model = fake_model(name)
    return replace(model, facts=replace(model.facts, thinking=ThinkingLevels(levels, levels[-1])))


@asynccontextmanager
async def site(
    script: Script | None = None,
    *,
    models: tuple[Model, ...] = (),
    engine: FakeEngine | None = None,
    **settings: Any,
) -> AsyncGenerator[Site]:
    """Served are `m`, which can all, `plain`, which only completes, `emb`, and `models`, on one engine."""
    made = engine or FakeEngine(script)

    async def start(_: Model) -> FakeEngine:
        return made

    own = (fake_model("m"), fake_model("plain", "completion"), fake_model("emb", "embedding"))
    app = build_app(read_settings(preload=False, **settings), Library([*own, *models]), start)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield Site(client, made)


def chunks(answer: httpx.Response) -> list[dict[str, Any]]:
    """The documents of a stream that ends as it should."""
    assert answer.headers["content-type"] == "text/event-stream"
    *frames, done = answer.text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def refused(answer: httpx.Response, text: str, status: int = 400) -> None:
    kinds = {400: "invalid_request_error", 404: "not_found_error"}
    error = {"message": text, "type": kinds.get(status, "api_error"), "param": None, "code": None}
    assert (answer.status_code, answer.json()) == (status, {"error": error})
