"""What describes the server, its models and who asks: tags, ps, show, version, me and the liveness text."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header
from starlette.requests import Request
from starlette.responses import Response

from app.api.guard import needs
from app.api.ollama import codec, views
from app.api.ollama.views import Running
from app.api.services import LARGE_BODY, Context, Served, Services, SmallBody
from app.api.wire import JSON, dumps
from app.catalogue.names import parse_name
from app.core.context import Caller
from app.core.errors import BlobMissing
from app.core.model import Model
from app.peers import merge
from app.peers.peers import ASKED_BY_PEER, Rows
from app.runtime.checks import check_allowed

router = APIRouter()


@router.api_route("/", methods=["HEAD", "GET"])
@needs("key")
async def alive() -> Response:
    return Response("Ollama is running", media_type="text/plain; charset=utf-8")


@router.api_route("/api/version", methods=["HEAD", "GET"])
@needs("key")
async def version(served: Served) -> Response:
    """The release of Ollama whose API this server speaks: clients compare it with what they need."""
    return _json(dumps({"version": served.api_version}))


@router.get("/api/status")
@needs("key")
async def status() -> Response:
    return _json(dumps({"cloud": {"disabled": True, "source": "config"}}))


@router.post("/api/me")
@needs("key")
async def me(ctx: Context) -> Response:
    """Whom the key stands for. Ollama's command line pushes nothing before this is answered with 200."""
    return _json(dumps(views.account(ctx.caller)))


@router.api_route("/api/tags", methods=["HEAD", "GET"])
@needs("models:read")
async def tags(request: Request, served: Served, ctx: Context) -> Response:
    """The models that the caller may use, on the servers behind this one too."""
    models = (_seen(model, ctx.caller) for model in _usable(served, ctx.caller))
    listed = views.tags(models)
    if others := await _of_peers(request, served, "/api/tags"):
        listed["models"] = merge.tags([listed["models"], *others])
    return _json(dumps(listed))


def _usable(served: Services, caller: Caller) -> Iterator[Model]:
    return (model for model in served.library.all() if caller.may_use(model.name))


def _seen(model: Model, caller: Caller) -> Model:
    """The model as this caller may see it: not built on one that its key does not allow."""
    if not model.parent or caller.may_use(parse_name(model.parent)):
        return model
    return replace(model, parent="")


@router.get("/api/ps")
@needs("models:read")
async def ps(request: Request, served: Served, ctx: Context) -> Response:
    running = [
        Running(row.model, row.memory_bytes, row.vram_bytes, row.context_length, row.expires_at)
        for row in served.manager.loaded()
        if ctx.caller.may_use(row.model.name)
    ]
    listed = views.ps(running)
    if others := await _of_peers(request, served, "/api/ps"):
        listed["models"] = merge.ps([listed["models"], *others])
    return _json(dumps(listed))


async def _of_peers(request: Request, served: Services, path: str, member: str = "models") -> list[Rows]:
    if ASKED_BY_PEER in request.headers:
        return []
    return await served.of_peers(request, path, member)


@router.get("/api/experimental/model-recommendations")
@needs("models:read")
async def recommendations(request: Request, served: Served, ctx: Context) -> Response:
    """What Ollama's command line offers to chat with: without a list it offers models that are not here."""
    chatting = (model for model in _usable(served, ctx.caller) if model.can("completion"))
    listed = [views.recommendation(model) for model in chatting]
    if others := await _of_peers(
        request, served, "/api/experimental/model-recommendations", "recommendations"
    ):
        listed = merge.recommendations([listed, *others])
    return _json(dumps({"recommendations": listed}))


@router.post("/api/show")
@needs("models:read")
async def show(
    body: SmallBody, served: Served, ctx: Context, user_agent: Annotated[str, Header()] = ""
) -> Response:
    asked = await served.decoded(codec.to_show, body)
    check_allowed(ctx.caller, asked.model, details=True)

    async def shown() -> Response:
        model = _seen(served.library.find(asked.model, details=True), ctx.caller)
        show_it = partial(
            _shown,
            model,
            asked.model,
            shows_path=ctx.caller.has("admin"),
            verbose=asked.verbose,
            system=asked.system,
            options=asked.options,
            user_agent=user_agent,
        )
        # What the client sends comes back, as a Modelfile too; lists of the vocabulary are long.
        is_small = len(body) < LARGE_BODY and not asked.verbose and not views.is_large(model)
        return _json(show_it() if is_small else await served.pool.run(show_it))

    try:
        return await shown()
    except BlobMissing:
        # It was deleted or replaced, and its texts with it, since the list was read.
        await served.library.reload()
        return await shown()


def _shown(model: Model, requested: str, **how: Any) -> bytes:
    return dumps(views.show(model, requested, **how))


def _json(body: bytes, status: int = HTTPStatus.OK) -> Response:
    return Response(body, status, media_type=JSON)
