"""A server with scripted engines, asked for responses."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from app.catalogue.library import Library
from app.core.events import Content, Event, Thinking, ToolCall
from app.core.model import Capability, Model
from app.core.request import ChatPrompt
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply, Script
from app.main import build_app
from app.settings.server import read_settings
from harness.fake_model import fake_model

USER = {"type": "message", "role": "user", "content": "Hi"}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


def replying(*events: Event, cached_tokens: int = 0) -> Reply:
    """A reply whose decoder makes these events, one for each word."""
    groups: list[Sequence[Event]] = [[event] for event in events]
    return Reply([f"{number} " for number in range(len(events))], groups, cached_tokens=cached_tokens)


THINKS_SAYS_CALLS = replying(
    Thinking("hm"),
    Thinking("m"),
    Content("I look"),
    Content(" it up."),
    ToolCall(0, "call_a", "get_weather", {"city": "Paris"}),
    ToolCall(1, "call_b", "get_weather", {"city": "Rome"}),
)


class Site:
    """A server, a client of it, and the engine of its models."""

    def __init__(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        self.client = client
        self.engine = engine

    async def post(self, body: Mapping[str, Any], path: str = "") -> httpx.Response:
        return await self.client.post(f"/v1/responses{path}", json={"model": "m", **body})

    async def respond(self, **body: Any) -> dict[str, Any]:
        answer = await self.post(body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def events(self, **body: Any) -> list[dict[str, Any]]:
        """The events of a stream, whose frames must be what they should be."""
        answer = await self.post({**body, "stream": True})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/event-stream"
        return events_of(answer.text)

    async def refused(self, **body: Any) -> tuple[int, str]:
        answer = await self.post(body)
        document = answer.json()["error"]
        assert set(document) == {"message", "type", "param", "code"}
        return answer.status_code, document["message"]

    @property
    def chat(self) -> ChatPrompt:
        """What the last prompt was made of."""
        return self.engine.renderings[-1].chat


def events_of(text: str) -> list[dict[str, Any]]:
    assert text.endswith("\n\n")
    events: list[dict[str, Any]] = []
    for frame in text.removesuffix("\n\n").split("\n\n"):
        name, _, data = frame.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(events)
        events.append(event)
    return events


@asynccontextmanager
async def site(
    script: Script | Reply | None = None,
    *capabilities: Capability,
    models: Sequence[Model] = (),
    **settings: Any,
) -> AsyncGenerator[Site]:
    reply = script if isinstance(script, Reply) else None
    engine = FakeEngine({}, default=reply) if reply is not None else FakeEngine(script)  # type: ignore[arg-type]

    async def start(_: object) -> FakeEngine:
        return engine

    library = Library(models or [fake_model("m", *capabilities)])
    app = build_app(read_settings(preload=False, **settings), library, start)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield Site(client, engine)
