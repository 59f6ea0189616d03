"""What describes the server and its models: tags, ps, show, version and the liveness text."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.requests import Request
from starlette.responses import Response

from app.api.guard import needs
from app.api.ollama import codec, views
from app.api.ollama.views import Running
from app.api.ollama.wire import dumps
from app.api.services import LARGE_BODY, CurrentCall, Served, Services, SmallBody
from app.api.stream import json_response
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
    return json_response(dumps({"version": served.api_version}))


@router.get("/api/status")
@needs("key")
async def status() -> Response:
    return json_response(dumps({"cloud": {"disabled": True, "source": "config"}}))


@router.api_route("/api/tags", methods=["HEAD", "GET"])
@needs("models:read")
async def tags(request: Request, served: Served, call: CurrentCall) -> Response:
    """The models that the caller may use, on the servers behind this one too."""
    models = (model for model in served.library.all() if call.caller.may_use(model.name))
    listed = views.tags(models)
    if others := await _of_peers(request, served):
        listed["models"] = merge.tags([listed["models"], *others])
    return json_response(dumps(listed))


@router.get("/api/ps")
@needs("models:read")
async def ps(request: Request, served: Served, call: CurrentCall) -> Response:
    running = [
        Running(row.model, row.memory_bytes, row.vram_bytes, row.context_length, row.expires_at)
        for row in served.manager.loaded()
        if call.caller.may_use(row.model.name)
    ]
    listed = views.ps(running)
    if others := await _of_peers(request, served):
        listed["models"] = merge.ps([listed["models"], *others])
    return json_response(dumps(listed))


async def _of_peers(request: Request, served: Services) -> list[Rows]:
    if ASKED_BY_PEER in request.headers:
        return []
    return await served.peers.rows(request.url.path, request.headers.get("authorization", ""))


@router.post("/api/show")
@needs("models:read")
async def show(
    body: SmallBody, served: Served, call: CurrentCall, user_agent: Annotated[str, Header()] = ""
) -> Response:
    asked = await served.decoded(codec.to_show, body)
    check_allowed(call.caller, asked.model, details=True)
    show_it = partial(
        views.show,
        served.library.find(asked.model, details=True),
        asked.model,
        verbose=asked.verbose,
        system=asked.system,
        options=asked.options,
        user_agent=user_agent,
    )
    # What the client sends comes back, as a Modelfile too.
    found = show_it() if len(body) < LARGE_BODY else await served.pool.run(show_it)
    return json_response(dumps(found))
