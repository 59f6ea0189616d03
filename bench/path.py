"""Microseconds that Caravan's own code spends on a token, from an engine's delta to the server's `send`.

Run it with `python -m bench.path`. Nothing is sent anywhere and the engine is free of charge, so what is
measured is this code alone. `measure` takes the parts as arguments: give it other events, another
encoder or a whole application to see what those cost.
"""

import asyncio
import gc
import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.anthropic.encoder import MessagesEncoder
from app.api.ollama.encoder import ChatEncoder, GenerateEncoder
from app.api.openai.chat import chat_encoder as chat_words
from app.api.openai.completions import completion_encoder
from app.api.openai.encoder import Form
from app.api.openai.responses.codec import to_response
from app.api.openai.responses.encoder import ResponsesEncoder
from app.api.stream import Encoder, EventResponse, Events, RawSend
from app.api.wire import dumps
from app.catalogue.library import Library
from app.core.events import Content, Delta, Done, Event, Started, Timings
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.main import build_app
from app.settings.server import read_settings
from harness.fake_model import fake_model

TOKENS = 20_000
ROUNDS = 5
TEXT = " world"

MakeEvents = Callable[[int], Events]
MakeEncoder = Callable[[], Encoder]


async def deltas(count: int) -> AsyncGenerator[Delta]:
    """An engine that always has the next token ready."""
    for token in range(count):
        yield Delta(TEXT, [token])


async def contents(count: int) -> AsyncGenerator[Sequence[Event]]:
    """The pipeline of a model whose text is all content."""
    async for delta in deltas(count):
        yield (Content(delta.text, delta.logprobs),)
    yield (Done("stop", 1, 1, 1, count, Timings(1, 1)),)


def chat_encoder() -> Encoder:
    return ChatEncoder("llama3.2:latest")


def encoders() -> dict[str, Encoder]:
    """One of each route that streams, by its name; all have begun, since that happens once a stream."""
    model = "llama3.2:latest"
    asked = to_response(dumps({"model": model, "input": "Go"}), 0)
    made: dict[str, Encoder] = {
        "chat": ChatEncoder(model),
        "generate": GenerateEncoder(model),
        "OpenAI chat": chat_words(Form(model)),
        "OpenAI completions": completion_encoder(Form(model)),
        "Responses": ResponsesEncoder(asked.echo, asked.toolbox),
        "Messages": MessagesEncoder(model, "req_1"),
    }
    for encoder in made.values():
        encoder.feed(Started(1))
        encoder.feed(Content(TEXT))
    return made


def bare_app(events: MakeEvents, encoder: MakeEncoder) -> ASGIApp:
    """The response with nothing around it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = EventResponse(events(TOKENS), encoder(), stream=True)
        await response(scope, receive, send)

    return app


def framework_app(events: MakeEvents, encoder: MakeEncoder) -> ASGIApp:
    """The response as FastAPI serves it, two layers of the server's own included."""
    fastapi = FastAPI()
    fastapi.add_middleware(_Layer)
    fastapi.add_middleware(_Layer)

    async def chat() -> EventResponse:
        return EventResponse(events(TOKENS), encoder(), stream=True)

    fastapi.add_api_route("/api/chat", chat, methods=["POST"], response_model=None)
    return fastapi


def whole_app() -> ASGIApp:
    """The server itself over the fake engine: routing, decoding, pipeline, encoding, all of it."""

    async def start(_: Model) -> FakeEngine:
        return FakeEngine(default=Reply((TEXT,) * TOKENS), window=2 * TOKENS)

    return build_app(read_settings(preload=False), Library([fake_model("fake")]), start)


class _Layer:
    """What an access log or a metrics middleware does to each message."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["status"] = message["status"]
            await send(message)

        await self._app(scope, receive, seen)


async def measure(app: ASGIApp, tokens: int = TOKENS) -> float:
    """Microseconds a token that one request to this application takes, at best."""
    return min([await _request(app) for _ in range(ROUNDS)]) / tokens * 1e6


async def _request(app: ASGIApp) -> float:
    frames = 0

    asked = {
        "model": "fake",
        "messages": [{"role": "user", "content": "Go"}],
        "options": {"num_ctx": 2 * TOKENS},
    }
    bodies = [json.dumps(asked).encode()]

    async def receive() -> Message:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError("an event that nobody sets")

    async def send(message: Message) -> None:
        nonlocal frames
        frames += 1

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/api/chat",
        "raw_path": b"/api/chat",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    gc.collect()
    start = time.perf_counter()
    await app(scope, receive, send)
    took = time.perf_counter() - start
    if frames < TOKENS:
        raise RuntimeError(f"{frames} frames for {TOKENS} tokens")
    return took


async def measure_source(events: MakeEvents) -> float:
    """The part of the path that is the events' own making."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        async for _event in events(TOKENS):
            pass
        best = min(best, time.perf_counter() - start)
    return best / TOKENS * 1e6


def measure_call(call: Callable[[Any], bytes], argument: Any) -> float:
    """Microseconds of one call, at best."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(TOKENS):
            call(argument)
        best = min(best, time.perf_counter() - start)
    return best / TOKENS * 1e6


async def table() -> dict[str, float]:
    """Every row by its name."""
    return {
        "the server over the fake engine": await measure(whole_app()),
        "path: engine, events, encoder, response": await measure(bare_app(contents, chat_encoder)),
        "the same inside FastAPI and two layers": await measure(framework_app(contents, chat_encoder)),
        "the same, frames sent raw": await measure(RawSend(framework_app(contents, chat_encoder))),
        "engine and events alone": await measure_source(contents),
        **{
            f"{name} encoder alone": measure_call(encoder.feed, Content(TEXT))
            for name, encoder in encoders().items()
        },
        "wire.dumps alone": measure_call(dumps, TEXT),
    }


def main() -> None:
    for name, microseconds in asyncio.run(table()).items():
        print(f"{name:42} {microseconds:6.2f} us/token")


if __name__ == "__main__":
    main()
