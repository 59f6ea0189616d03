"""The models of the whole cluster, as OpenAI's API lists them (docs/reference 13.4)."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.guard import needs
from app.api.services import Context, Served, Services
from app.api.wire import BARE_JSON, JSON, dumps
from app.catalogue.names import parse_name, read_reference
from app.core.context import Caller
from app.core.errors import ModelNotFound
from app.peers import merge
from app.peers.peers import Rows
from app.runtime.checks import check_allowed

router = APIRouter(prefix="/v1")


@router.get("/models")
@needs("models:read")
async def models(request: Request, served: Served, ctx: Context) -> Response:
    """As `/api/tags` has them, in its order."""
    rows = merge.tags([_own(served, ctx.caller), *await served.of_peers(request, "/api/tags")])
    data = [_model(row["name"], row) for row in rows]
    return Response(dumps({"object": "list", "data": data or None}) + b"\n", media_type=BARE_JSON)


@router.get("/models/{model}")
@needs("models:read")
async def model(model: str, request: Request, served: Served, ctx: Context) -> Response:
    check_allowed(ctx.caller, model)
    try:
        name = str(served.library.find(model).name)
        rows = _own(served, ctx.caller)
    except ModelNotFound:
        name = str(read_reference(model))
        rows = [row for each in await served.of_peers(request, "/api/tags") for row in each]
    row = next((row for row in rows if row["name"].lower() == name.lower()), None)
    if row is None:
        raise ModelNotFound(name)
    return Response(dumps(_model(model, row)) + b"\n", media_type=JSON)


def _own(served: Services, caller: Caller) -> Rows:
    return [
        {"name": str(each.name), "modified_at": each.facts.modified_at.isoformat()}
        for each in served.library.all()
        if caller.may_use(each.name)
    ]


def _model(shown: str, row: dict[str, Any]) -> dict[str, Any]:
    created = int(datetime.fromisoformat(row["modified_at"]).timestamp())
    return {
        "id": shown,
        "object": "model",
        "created": created,
        "owned_by": parse_name(row["name"]).namespace,
    }
