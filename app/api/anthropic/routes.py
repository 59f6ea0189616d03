"""Anthropic's Messages API. A route names the steps; each step lives elsewhere."""

from contextlib import suppress
from dataclasses import replace

from fastapi import APIRouter
from starlette.responses import Response

from app.api.anthropic import codec
from app.api.anthropic.encoder import MessagesEncoder
from app.api.anthropic.failure import REQUEST_ID, new_request_id
from app.api.guard import needs
from app.api.services import Body, Context, Served
from app.api.stream import DocumentResponse, EventResponse
from app.api.wire import JSON, dumps
from app.catalogue.library import Library
from app.core.errors import AppError
from app.core.request import Generation, Load, Render

router = APIRouter(prefix="/v1/messages")


@router.post("")
@needs("inference")
async def create(body: Body, served: Served, ctx: Context) -> Response:
    ctx.operation = "chat"
    asked = await served.decoded(codec.to_message, body)
    ctx.stream = asked.stream
    request_id, limit_s = new_request_id(), served.time_left_s(ctx)
    generation = _for_model(asked, served.library)
    encoder = MessagesEncoder(
        generation.model, request_id, stops=asked.stops, shows_thinking=asked.thinking.shown
    )
    headers = {REQUEST_ID: request_id, **({"cache-control": "no-cache"} if asked.stream else {})}
    if not asked.only_loads:
        events = served.run(generation, ctx)
        return EventResponse(events, encoder, stream=asked.stream, limit_s=limit_s, headers=headers)

    async def load() -> bytes:
        await served.pipeline.load(Load(generation), ctx)
        ctx.operation = ""  # What succeeds was no inference.
        return encoder.loaded(stream=asked.stream)

    media_type = encoder.media_type if asked.stream else encoder.document_type
    return DocumentResponse(load, media_type=media_type, limit_s=limit_s, headers=headers)


@router.post("/count_tokens")
@needs("inference")
async def count_tokens(body: Body, served: Served, ctx: Context) -> Response:
    """The tokens of a prompt by the model's own template, which Ollama does not count."""
    asked = await served.decoded(codec.to_count, body)
    wanted = Render(_for_model(asked, served.library))

    async def work() -> bytes:
        served.tool_loop.check(wanted.wanted, ctx)
        whole = Render(await served.tool_loop.with_images(wanted.wanted, ctx))
        return dumps({"input_tokens": await served.pipeline.count(whole, ctx)})

    headers = {REQUEST_ID: new_request_id()}
    return DocumentResponse(work, media_type=JSON, limit_s=served.time_left_s(ctx), headers=headers)


def _for_model(asked: codec.Asked, library: Library) -> Generation:
    """With the thinking that its model can do. A model that is not there is told of in its turn."""
    with suppress(AppError):
        return replace(asked.generation, think=asked.thinking.of(library.find(asked.generation.model)))
    return asked.generation
