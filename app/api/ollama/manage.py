"""Models that come and go: create, blobs, copy, delete, pull, push (docs/reference 11 and 12)."""

import asyncio
from collections.abc import AsyncGenerator
from http import HTTPStatus

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.dialect import Answer
from app.api.guard import needs
from app.api.ollama import changes
from app.api.ollama.progress import progress_response
from app.api.ollama.upload import receive_blob
from app.api.refusal import Refusal
from app.api.services import Body, Context, Served, Services, SmallBody
from app.api.wire import JSON, dumps
from app.core.brief import brief
from app.core.context import Caller, RequestContext
from app.core.errors import Forbidden, ModelNotFound
from app.core.model import ModelName
from app.golang.quote import quoted
from app.registry.progress import SUCCESS, Progress
from app.runtime.reach import Reach

router = APIRouter()


@router.post("/api/create")
@needs("models:write")
async def create(body: Body, served: Served, ctx: Context) -> Response:
    """Make a model of another or of uploaded files, in Ollama's steps."""
    call = await served.decoded(changes.to_create, body)
    asked = call.asked
    for name in (asked.name, *((asked.base,) if asked.base else ())):
        check_may_use(ctx.caller, name, str(name))
    lines = served.creator.create(asked, _reach(served, ctx))
    return _told(lines, served, ctx, stream=call.stream)


@router.head("/api/blobs/{digest}")
@needs("models:write")
async def has_blob(digest: str, served: Served, ctx: Context) -> Response:
    found = await asyncio.to_thread(served.creator.has_blob, digest, _reach(served, ctx))
    return _EmptyResponse() if found else Response(b"", HTTPStatus.NOT_FOUND, media_type=JSON)


@router.post("/api/blobs/{digest}")
@needs("models:write")
async def put_blob(digest: str, request: Request, served: Served, ctx: Context) -> Response:
    """Take a blob at constant memory; one that is here, and that the key may name, is not read."""
    is_new = await receive_blob(
        request,
        _reach(served, ctx),
        digest,
        uploads=served.uploads,
        key_id=ctx.caller.key_id,
        quota_bytes=served.transfers.policy.quota_bytes,
        limit_bytes=served.limits.blob_bytes,
        pause_s=served.body_timeout_s,
    )
    return _EmptyResponse(HTTPStatus.CREATED if is_new else HTTPStatus.OK)


@router.post("/api/copy")
@needs("models:write")
async def copy(body: SmallBody, served: Served, ctx: Context) -> Response:
    sent, source, destination = await served.decoded(changes.to_copy, body)
    check_may_use(ctx.caller, source, sent.source)
    check_may_use(ctx.caller, destination, sent.destination)
    try:
        await served.creator.copy(source, destination)
    except ModelNotFound as error:
        return _not_found(error, f"model {quoted(sent.source)} not found")
    return _EmptyResponse()


@router.delete("/api/delete")
@needs("models:write")
async def delete(body: SmallBody, served: Served, ctx: Context) -> Response:
    """Delete a model; what is loaded for it alone is unloaded."""
    sent, name = await served.decoded(changes.to_delete, body)
    check_may_use(ctx.caller, name, sent)
    try:
        await served.creator.delete(name)
    except ModelNotFound as error:
        return _not_found(error, f"model '{sent}' not found")
    return _EmptyResponse()


@router.post("/api/pull")
@needs("models:write")
async def pull(request: Request, body: SmallBody, served: Served, ctx: Context) -> Response:
    """Bring a model here. What configuration or a server behind this one serves is there already."""
    call = await served.decoded(changes.to_pull, body)
    check_may_use(ctx.caller, call.name, call.model)
    if served.library.is_configured(call.name) or await _is_at_peer(call.name, request, served):
        lines = _nothing_to_pull()
    else:
        lines = served.transfers.pull(
            call.name,
            insecure=call.insecure,
            login=call.login,
            lacking=_reach(served, ctx).lacking,
            may_use=ctx.caller.may_use,
        )
    return _told(lines, served, ctx, stream=call.stream)


@router.post("/api/push")
@needs("models:write")
async def push(body: SmallBody, served: Served, ctx: Context) -> Response:
    call = await served.decoded(changes.to_push, body)
    check_may_use(ctx.caller, call.name, call.model)
    if served.library.is_configured(call.name):
        raise Forbidden(
            f"the model {call.name} comes from the configuration of this server: its weights are not in the "
            "store, and cannot be pushed"
        )
    lines = served.transfers.push(call.name, insecure=call.insecure, login=call.login)
    return _told(lines, served, ctx, stream=call.stream)


def check_may_use(caller: Caller, name: ModelName, sent: str) -> None:
    """A key's list binds each model that a request names: source, base and destination.

    Raises:
        Forbidden: for one that the key does not name, whether or not it is there.
    """
    if not caller.may_use(name):
        raise Forbidden(f"this API key does not allow the model {quoted(sent)}")


def _told(
    lines: AsyncGenerator[Progress], served: Services, ctx: RequestContext, *, stream: bool
) -> Response:
    lines = served.changes.held(ctx.caller.key_id, lines)
    return progress_response(lines, stream=stream, limit_s=served.time_left_s(ctx))


def _reach(served: Services, ctx: RequestContext) -> Reach:
    return Reach(served.creator.store, ctx.caller)


def _not_found(error: ModelNotFound, text: str) -> Response:
    body = dumps({"error": brief(text)})
    return Refusal(error, Answer(HTTPStatus.NOT_FOUND, {"content-type": JSON}, body))


async def _nothing_to_pull() -> AsyncGenerator[Progress]:
    yield Progress("pulling manifest")
    yield SUCCESS


async def _is_at_peer(name: ModelName, request: Request, served: Services) -> bool:
    others = await served.of_peers(request, "/api/tags")
    wanted = str(name).lower()
    return any(row["name"].lower() == wanted for rows in others for row in rows)


class _EmptyResponse(Response):
    """No body and no media type, as Go answers."""

    def __init__(self, status: int = HTTPStatus.OK) -> None:
        super().__init__(b"", status)
