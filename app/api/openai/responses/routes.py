"""`/v1/responses` and `/v1/responses/compact`. A route names the steps; each step lives elsewhere."""

from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.dialect import Answer, dialect_of
from app.api.guard import needs
from app.api.openai.effort import read_effort
from app.api.openai.responses import codec
from app.api.openai.responses.compaction import compacted
from app.api.openai.responses.encoder import CompactionEncoder, ResponsesEncoder
from app.api.openai.responses.failure import coded_failure
from app.api.openai.responses.templates import answered
from app.api.openai.responses.tools import Toolbox
from app.api.refusal import Refusal
from app.api.services import Body, Context, Served, Services
from app.api.stream import EventResponse, Events
from app.core.context import RequestContext
from app.core.errors import AppError, InvalidRequest
from app.core.events import Done, Timings
from app.core.model import ThinkingLevels
from app.core.request import Generation, Load

router = APIRouter(prefix="/v1/responses")

_STREAM_HEADERS = {"cache-control": "no-cache"}


@router.post("")
@needs("inference")
async def respond(body: Body, served: Served, ctx: Context) -> Response:
    ctx.operation = "chat"
    asked = await served.decoded(codec.to_response, body)
    if asked.effort is not None:
        asked = asked.thinking(read_effort(asked.effort, _levels(asked.model, served, ctx)))
    if not asked.model.strip():
        raise InvalidRequest("model is required")
    limit_s, ctx.stream = served.time_left_s(ctx), asked.stream
    if asked.waits_longer:
        ctx.caller = replace(ctx.caller, priority=ctx.caller.priority + 1)
    if asked.compaction is not None:
        events = compacted(lambda each: served.run(each, ctx), asked.compaction, ctx.work)
        encoder = CompactionEncoder(asked.echo, asked.toolbox)
    else:
        encoder = ResponsesEncoder(asked.echo, asked.toolbox, top_logprobs=asked.generation.top_logprobs)
        if asked.is_load:
            events = _loaded(served, asked.generation, ctx)
        else:
            events = answered(lambda each: served.run(each, ctx), asked.generation, asked.plainer)
    headers = _STREAM_HEADERS if asked.stream else {}
    return EventResponse(events, encoder, stream=asked.stream, limit_s=limit_s, headers=headers)


@router.post("/compact")
@needs("inference")
async def compact(body: Body, served: Served, ctx: Context) -> Response:
    ctx.operation = "chat"
    try:
        wanted = await served.decoded(codec.to_compaction, body)
    except InvalidRequest as error:
        return Refusal(error, coded_failure(error))
    events = compacted(lambda each: served.run(each, ctx), wanted, ctx.work)
    encoder = _WholeCompaction({}, Toolbox())
    return EventResponse(events, encoder, stream=False, limit_s=served.time_left_s(ctx))


@router.get("")
@needs("inference")
async def connect(request: Request) -> Response:
    """Declines a WebSocket with 426: who tries one first goes on over HTTP at once at that status alone.

    Any other GET is answered as if there were no such route.
    """
    if request.headers.get("upgrade", "").lower() != "websocket":
        return Response(
            "405 method not allowed",
            HTTPStatus.METHOD_NOT_ALLOWED,
            {"content-type": "text/plain", "allow": "POST"},
        )
    error = InvalidRequest("responses are served over HTTP, not over a WebSocket: use POST")
    _, headers, text = dialect_of(request.scope).failure(error)
    added = {**headers, "connection": "close", "upgrade": "HTTP/1.1"}
    return Refusal(error, Answer(HTTPStatus.UPGRADE_REQUIRED, added, text))


class _WholeCompaction(CompactionEncoder):
    def failure(self, error: Exception, *, stream: bool) -> Answer:
        return coded_failure(error) if hasattr(error, "code") else super().failure(error, stream=stream)


async def _loaded(served: Services, asked: Generation, ctx: RequestContext) -> Events:
    """An answer without a word, of a request that only has its model loaded."""
    await served.pipeline.load(Load(asked), ctx)
    ctx.operation = ""  # What succeeds was no inference.
    yield (Done("stop", 0, 0, 0, 0, Timings()),)


def _levels(name: str, served: Services, ctx: RequestContext) -> ThinkingLevels | None:
    """The levels of a model that the caller may use, where they are known."""
    with suppress(AppError):
        model = served.library.find(name)
        if ctx.caller.may_use(model.name):
            return model.facts.thinking
    return None
