"""What makes a model work: chat, generate, embed. A route names the steps; each step lives elsewhere."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial

from fastapi import APIRouter
from starlette.responses import Response

from app.api.guard import needs
from app.api.ollama import codec
from app.api.ollama.encoder import ChatEncoder, GenerateEncoder, OllamaEncoder
from app.api.ollama.schema import WrongThink
from app.api.ollama.variant import CurrentVariant, Variant
from app.api.services import Body, Context, Served, Services
from app.api.stream import DocumentResponse, EventResponse
from app.api.wire import JSON, dumps, vectors
from app.catalogue.library import Library
from app.core.context import RequestContext
from app.core.errors import AppError, InvalidRequest, ModelNotFound
from app.core.model import ThinkingLevels
from app.core.request import Embedding, Generation, Load, Render, Unload
from app.golang.quote import quoted
from app.runtime.pipeline import Embedded, Pipeline

router = APIRouter(prefix="/api")


@router.post("/chat")
@needs("inference")
async def chat(body: Body, served: Served, ctx: Context, variant: CurrentVariant) -> Response:
    ctx.operation = "chat"
    with _levels_named(served.library, ctx):
        asked = await served.decoded(partial(codec.to_chat, streams=variant.streams), body)
    if not asked.model.strip():
        raise InvalidRequest("model is required")
    return _answer(asked, _encoder(ChatEncoder, asked, variant), served, ctx)


@router.post("/generate")
@needs("inference")
async def generate(body: Body, served: Served, ctx: Context, variant: CurrentVariant) -> Response:
    ctx.operation = "text_completion"
    with _levels_named(served.library, ctx):
        asked = await served.decoded(partial(codec.to_generate, streams=variant.streams), body)
    return _answer(asked, _encoder(GenerateEncoder, asked, variant), served, ctx)


def _encoder(made: type[OllamaEncoder], asked: codec.Asked, variant: Variant) -> OllamaEncoder:
    return made(
        asked.model,
        top_logprobs=asked.top_logprobs,
        repeats_text=variant.repeats_text,
        calls_reason=variant.calls_reason,
    )


def _answer(asked: codec.Asked, encoder: OllamaEncoder, served: Services, ctx: RequestContext) -> Response:
    limit_s, ctx.stream = served.time_left_s(ctx), asked.stream
    request, pipeline = asked.request, served.pipeline
    if isinstance(request, Generation):
        events = served.run(request, ctx)
        return EventResponse(events, encoder, stream=asked.stream, limit_s=limit_s)

    async def work() -> bytes:
        match request:
            case Load():
                served.tool_loop.check(request.wanted, ctx)
                await pipeline.load(request, ctx)
                body = encoder.loaded()
            case Unload():
                pipeline.unload(request, ctx)
                body = encoder.unloaded()
            case Render():
                served.tool_loop.check(request.wanted, ctx)
                body = encoder.rendered(await pipeline.render(request, ctx))
        ctx.operation = ""  # What succeeds was no inference.
        return body

    return DocumentResponse(work, media_type=JSON, limit_s=limit_s)


@router.post("/embed")
@needs("inference")
async def embed(body: Body, served: Served, ctx: Context) -> Response:
    ctx.operation = "embeddings"
    asked = await served.decoded(codec.to_embed, body)

    async def work() -> bytes:
        return _embed_document(asked, await _embedded(served.pipeline, asked, ctx))

    return DocumentResponse(work, media_type=JSON, limit_s=served.time_left_s(ctx))


@router.post("/embeddings")
@needs("inference")
async def embeddings(body: Body, served: Served, ctx: Context) -> Response:
    """The older route: one vector, as the model made it (docs/reference 9.2)."""
    ctx.operation = "embeddings"
    asked = await served.decoded(codec.to_embeddings, body)
    if not asked.model.strip():
        raise InvalidRequest("model is required")

    async def work() -> bytes:
        found = await _embedded(served.pipeline, asked, ctx, legacy=True)
        return dumps({"embedding": vectors(found.vectors[0]) if found.vectors else []})

    return DocumentResponse(work, media_type=JSON, limit_s=served.time_left_s(ctx))


@contextmanager
def _levels_named(library: Library, ctx: RequestContext) -> Generator[None]:
    """Name the levels of the model to whoever asked for a kind of thinking that is none."""
    try:
        yield
    except WrongThink as error:
        levels: ThinkingLevels | None = None
        with suppress(AppError):
            model = library.find(error.model)
            levels = model.facts.thinking if ctx.caller.may_use(model.name) else None
        if levels is None:
            raise
        raise WrongThink(f"; supported values: {dumps(levels.values).decode()}") from None


async def _embedded(
    pipeline: Pipeline, asked: Embedding, ctx: RequestContext, *, legacy: bool = False
) -> Embedded:
    try:
        found = await pipeline.embed(asked, ctx, case_sensitive=legacy, normalize=not legacy)
    except ModelNotFound as error:
        raise EmbeddingModelNotFound(error.name) from error
    if not asked.inputs:
        ctx.operation = ""  # The model was only loaded.
    return found


class EmbeddingModelNotFound(ModelNotFound):
    """The embedding routes say it in words of their own (docs/reference 3.5)."""

    def __str__(self) -> str:
        if not self.name.strip():
            return super().__str__()
        return f"model {quoted(self.name)} not found, try pulling it first"


def _embed_document(asked: Embedding, found: Embedded) -> bytes:
    document = {"model": asked.model, "embeddings": vectors(found.vectors) if found.vectors else []}
    if found.vectors:
        document |= {"total_duration": found.total_ns, "load_duration": found.load_ns}
        if found.prompt_tokens:
            document["prompt_eval_count"] = found.prompt_tokens
    return dumps(document)
