"""Ollama's web search and fetch, done by the built-in tools of this server (docs/reference 16.3)."""

from dataclasses import dataclass

from fastapi import APIRouter
from starlette.responses import Response

from app.api.guard import needs
from app.api.services import Context, Served, Services, SmallBody
from app.api.stream import DocumentResponse
from app.api.wire import JSON, dumps
from app.core.context import RequestContext
from app.core.errors import Forbidden, InvalidRequest
from app.core.limits import DEFAULTS, InputLimits
from app.core.request import Json
from app.golang.json import decode
from app.golang.types import INT, STRING, Kind, parse, struct
from app.tools.base import Outcome, Tool
from app.tools.toolbox import Toolbox

router = APIRouter(prefix="/api/experimental")

_OFF = "ollama cloud is disabled: {} is unavailable"
_USUAL_RESULTS = 5
_MOST_RESULTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    query: str = ""
    max_results: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fetch:
    url: str = ""


_SEARCH: Kind[_Search] = struct("WebSearchRequest", _Search, {"query": STRING, "max_results": INT})
_FETCH: Kind[_Fetch] = struct("WebFetchRequest", _Fetch, {"url": STRING})


@router.post("/web_search")
@needs("tools")
async def web_search(body: SmallBody, served: Served, ctx: Context) -> Response:
    tool = _tool(served, "web_search")
    asked = parse(_SEARCH, await _decoded(body, served))
    if not asked.query.strip():
        raise InvalidRequest("query is required")
    if not 0 <= asked.max_results <= _MOST_RESULTS:
        raise InvalidRequest(f"max_results must be between 1 and {_MOST_RESULTS}")
    arguments = {"query": asked.query, "max_results": asked.max_results or _USUAL_RESULTS}

    async def work() -> bytes:
        outcome = await _run(served.toolbox, tool, arguments, ctx)
        results = [
            {"title": each.title, "url": each.url, "content": each.content} for each in outcome.results
        ]
        return dumps({"results": results})

    return DocumentResponse(work, media_type=JSON, limit_s=served.time_left_s(ctx))


@router.post("/web_fetch")
@needs("tools")
async def web_fetch(body: SmallBody, served: Served, ctx: Context) -> Response:
    tool = _tool(served, "web_fetch")
    asked = parse(_FETCH, await _decoded(body, served))
    if not asked.url.strip():
        raise InvalidRequest("url is required")

    async def work() -> bytes:
        (page,) = (await _run(served.toolbox, tool, {"url": asked.url}, ctx)).pages
        links = {"links": page.links} if page.links else {}
        return dumps({"title": page.title, "content": page.text, **links})

    return DocumentResponse(work, media_type=JSON, limit_s=served.time_left_s(ctx))


async def _decoded(body: bytes, served: Served) -> Json:
    if not body:
        raise InvalidRequest("missing request body")
    return await served.decoded(_read, body)


def _read(body: bytes, _received_ns: int = 0, *, limits: InputLimits = DEFAULTS) -> Json:
    return decode(body, limits)


def _tool(served: Services, name: str) -> Tool:
    """Raises: Forbidden: where the tool is off, whatever the body."""
    tool = served.toolbox.named(name)
    if tool is None:
        raise Forbidden(_OFF.format(name.replace("_", " ")))
    return tool


async def _run(toolbox: Toolbox, tool: Tool, arguments: dict[str, Json], ctx: RequestContext) -> Outcome:
    """The outcome of one call; whoever calls names the address, so any is known.

    Raises:
        AppError: for what went wrong.
    """
    outcome, report, error = await toolbox.run(tool, arguments, toolbox.session((), any_url=True))
    ctx.tools.append(report)
    if error is not None:
        raise error
    return outcome
