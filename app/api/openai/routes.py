"""What makes a model work, by OpenAI's API: chat, completions, embeddings. A route names the steps."""

import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

import numpy as np
from fastapi import APIRouter
from starlette.responses import Response

from app.api.guard import needs
from app.api.openai import codec
from app.api.openai.chat import chat_encoder
from app.api.openai.choices import merged
from app.api.openai.completions import completion_encoder
from app.api.openai.effort import read_effort
from app.api.openai.encoder import EVENTS, Form, OpenAIEncoder
from app.api.services import Body, Context, Served, Services
from app.api.stream import DocumentResponse, EventResponse
from app.api.wire import BARE_JSON, dumps, vectors
from app.catalogue.library import Library
from app.core.context import RequestContext
from app.core.errors import AppError, InvalidRequest, ModelNotFound
from app.core.events import Event
from app.core.model import ThinkingLevels
from app.core.request import Load, Render
from app.golang.quote import quoted
from app.runtime.pipeline import Embedded

router = APIRouter(prefix="/v1")
_MANY_VECTORS = 64
"""From which on a thread is worth its way there and back."""


@router.post("/chat/completions")
@needs("inference")
async def chat(body: Body, served: Served, ctx: Context) -> Response:
    ctx.operation = "chat"
    asked = await served.decoded(codec.to_chat, body)
    if not asked.model.strip():
        raise InvalidRequest("model is required")
    if asked.effort:
        levels = _levels(served.library, asked.model, ctx)
        asked = _with_effort(asked, levels)
    return _answer(asked, chat_encoder(_form(asked)), served, ctx)


@router.post("/completions")
@needs("inference")
async def completions(body: Body, served: Served, ctx: Context) -> Response:
    ctx.operation = "text_completion"
    asked = await served.decoded(codec.to_completion, body)
    return _answer(asked, completion_encoder(_form(asked)), served, ctx)


def _form(asked: codec.Asked) -> Form:
    return Form(
        asked.model,
        choices=max(len(asked.generations), 1),
        per_prompt=asked.per_prompt,
        top_logprobs=asked.top_logprobs,
        include_usage=asked.include_usage,
        service_tier=asked.service_tier,
        echoes=asked.echoes,
    )


def _answer(asked: codec.Asked, encoder: OpenAIEncoder, served: Services, ctx: RequestContext) -> Response:
    limit_s, ctx.stream = served.time_left_s(ctx), asked.stream
    _wait_longer(ctx, asked.lower_priority)
    if asked.generations and not asked.debug_render_only:
        several = len(asked.generations) > 1
        events = _several(asked, encoder, served, ctx) if several else served.run(asked.generations[0], ctx)
        return EventResponse(events, encoder, stream=asked.stream, limit_s=limit_s)

    async def work() -> bytes:
        if asked.generations:
            body = encoder.rendered(
                await served.pipeline.render(
                    Render(await served.tool_loop.with_images(asked.wanted, ctx)), ctx
                )
            )
        else:
            await served.pipeline.load(Load(asked.wanted), ctx)
            body = encoder.loaded(stream=asked.stream)
        ctx.operation = ""  # What succeeds was no inference.
        return body

    streams = asked.stream and not asked.generations
    return DocumentResponse(work, media_type=EVENTS if streams else BARE_JSON, limit_s=limit_s)


async def _several(
    asked: codec.Asked, encoder: OpenAIEncoder, served: Services, ctx: RequestContext
) -> AsyncGenerator[Sequence[Event], None]:
    """The events of all answers. Pictures that are named by address are fetched once for all of them."""
    generations = asked.generations
    fetched = await served.tool_loop.with_images(asked.wanted, ctx)
    if fetched is not asked.wanted:
        generations = tuple(replace(each, prompt=fetched.prompt) for each in generations)
    runs = [served.run(each, ctx) for each in generations]
    async with aclosing(merged(runs, encoder.turn_to)) as events:
        async for each in events:
            yield each


@router.post("/embeddings")
@needs("inference")
async def embeddings(body: Body, served: Served, ctx: Context) -> Response:
    ctx.operation = "embeddings"
    asked = await served.decoded(codec.to_embeddings, body)
    _wait_longer(ctx, codec.lower_priority(asked.extra))

    async def work() -> bytes:
        try:
            found = await served.pipeline.embed(asked.wanted, ctx)
        except ModelNotFound as error:
            raise EmbeddingModelNotFound(error.name) from error
        if len(found.vectors) < _MANY_VECTORS:
            return _embeddings_document(asked, found)
        return await served.pool.run(_embeddings_document, asked, found)

    return DocumentResponse(work, media_type=BARE_JSON, limit_s=served.time_left_s(ctx))


class EmbeddingModelNotFound(ModelNotFound):
    """The embedding routes say it in words of their own (docs/reference 3.5)."""

    def __str__(self) -> str:
        if not self.name.strip():
            return super().__str__()
        return f"model {quoted(self.name)} not found, try pulling it first"


def _embeddings_document(asked: codec.EmbeddingsCall, found: Embedded) -> bytes:
    data = [
        {
            "object": "embedding",
            "embedding": _base64(vector) if asked.as_base64 else vectors(vector),
            "index": index,
        }
        for index, vector in enumerate(found.vectors)
    ]
    counts = {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens}
    return dumps({"object": "list", "data": data, "model": asked.wanted.model, "usage": counts}) + b"\n"


def _base64(vector: list[float]) -> str:
    """Of little-endian float32."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def _levels(library: Library, name: str, ctx: RequestContext) -> ThinkingLevels | None:
    """Those of a model that the caller may know of."""
    with suppress(AppError):
        model = library.find(name)
        if ctx.caller.may_use(model.name):
            return model.facts.thinking
    return None


def _with_effort(asked: codec.Asked, levels: ThinkingLevels | None) -> codec.Asked:
    think = read_effort(asked.effort, levels)
    told = tuple(replace(each, think=think) for each in asked.generations)
    return replace(asked, wanted=replace(asked.wanted, think=think), generations=told)


def _wait_longer(ctx: RequestContext, lower: int) -> None:
    if lower:
        ctx.caller = replace(ctx.caller, priority=ctx.caller.priority + lower)
