"""A server over a scripted engine, and a client of its Messages API."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx

from app.catalogue.library import Library
from app.core.events import Event
from app.core.model import Model, ThinkingLevels
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.main import build_app
from app.settings.server import read_settings
from harness.fake_model import fake_model

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgAAIAAAUAAQ0KLbQAAAAASUVORK5CYII="
"""A picture in base64."""
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}


def thinks(name: str, levels: ThinkingLevels | None) -> Model:
    model = fake_model(name)
    return replace(model, facts=replace(model.facts, thinking=levels))


MODELS = (
    fake_model("m"),
    thinks("levels", ThinkingLevels((False, "low", "xhigh"), "low")),
    fake_model("plain", "completion"),
)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def scripted(*deltas: str, events: Sequence[Sequence[Event]] | None = None, **reply: Any) -> FakeEngine:
    return FakeEngine(default=Reply(deltas, events, **reply))


class Site:
    """A client of a server of `MODELS`, and its engine."""

    def __init__(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        self.client = client
        self.engine = engine

    async def ask(self, *, path: str = "/v1/messages", **body: Any) -> httpx.Response:
        """A request that is whole unless `body` says otherwise; a value of None leaves the field out."""
        asked = {"model": "m", "max_tokens": 64, "messages": [user("Hi")]} | body
        given = {name: value for name, value in asked.items() if value is not None}
        return await self.client.post(path, json=given)

    async def told(self, **body: Any) -> dict[str, Any]:
        answer = await self.ask(**body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refused(self, **body: Any) -> str:
        """The text with which a request is refused as the client's mistake."""
        answer = await self.ask(**body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
        return answer.json()["error"]["message"]

    async def shown(self, *messages: Any, **body: Any) -> str:
        """What the model was shown of a conversation, less the opening of the answer."""
        await self.told(messages=list(messages), **body)
        return self.engine.asked[-1].prompt.text.removesuffix("<|im_start|>assistant\n")

    async def stream(self, **body: Any) -> list[tuple[str, dict[str, Any]]]:
        answer = await self.ask(stream=True, **body)
        assert answer.status_code == 200, answer.text
        return frames(answer.text)


def frames(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream, whose names are those of their documents."""
    assert text.endswith("\n\n")
    found: list[tuple[str, dict[str, Any]]] = []
    for frame in text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        document = json.loads(data.removeprefix("data: "))
        assert name == f"event: {document['type']}"
        found.append((document["type"], document))
    return found


@asynccontextmanager
async def site(
    engine: FakeEngine | None = None, *, models: Sequence[Model] = MODELS, **settings: Any
) -> AsyncGenerator[Site]:
    running = engine or FakeEngine()

    async def start(_: Model) -> FakeEngine:
        return running

    app = build_app(read_settings(preload=False, **settings), Library(models), start)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        yield Site(client, running)
