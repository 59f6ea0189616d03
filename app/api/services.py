"""What a route may ask for: the parts of the running server, put there once by `main`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar

from fastapi import Depends
from prometheus_client import Metric
from starlette.requests import Request

from app.api.body import OpenBodies, Uploads, read_body
from app.api.context import context_of
from app.api.guard import credentials_of
from app.api.places import Places
from app.api.stream import Events
from app.catalogue.library import Library
from app.catalogue.names import parse_name
from app.core.context import Caller, RequestContext
from app.core.errors import InvalidRequest
from app.core.limits import InputLimits
from app.core.pool import Pool
from app.core.request import Generation
from app.engine.base import Engine
from app.peers.peers import Peers, Rows, name_of
from app.runtime.creation import Creator
from app.runtime.leases import Leases
from app.runtime.lifecycle import Lifecycle
from app.runtime.pipeline import Pipeline
from app.runtime.toolloop import ToolLoop
from app.runtime.transfers import Transfers
from app.telemetry.report import Telemetry
from app.tools.toolbox import Toolbox

LARGE_BODY = 32 << 10
"""Bytes from which a body is decoded beside the event loop: some take a microsecond for each."""
_T_co = TypeVar("_T_co", covariant=True)


class Decode(Protocol[_T_co]):
    """How a route reads its body."""

    def __call__(self, body: bytes, received_ns: int, /, *, limits: InputLimits) -> _T_co: ...


class Others(Protocol):
    """The other processes of this server that take requests."""

    async def families(self, engines: Sequence[Engine]) -> list[Metric]:
        """Their metrics, and those that these engines have here."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """The running server, as its routes see it."""

    library: Library
    manager: Leases
    pipeline: Pipeline
    telemetry: Telemetry
    max_body_bytes: int
    body_timeout_s: float
    request_timeout_s: float
    api_version: str
    lifecycle: Lifecycle
    peers: Peers
    limits: InputLimits
    pool: Pool
    bodies: OpenBodies
    tool_loop: ToolLoop
    toolbox: Toolbox
    creator: Creator
    transfers: Transfers
    uploads: Uploads
    changes: Places
    others: "Others | None" = None

    def time_left_s(self, ctx: RequestContext) -> float:
        """How long a request may still take; `inf` is forever."""
        return self.request_timeout_s - (time.monotonic_ns() - ctx.arrived_ns) / 1e9

    def run(self, asked: Generation, ctx: RequestContext) -> Events:
        """The events of an answer, whichever API asked for it."""
        return self.tool_loop.run(asked, ctx)

    async def of_peers(self, request: Request, path: str, member: str = "models") -> list[Rows]:
        """What the servers behind this one list, asked with the key of the request: of that what its list
        allows, since they may know another list, or no keys.

        Raises: as `Peers.rows`.
        """
        found = await self.peers.rows(path, *credentials_of(request.scope), member=member)
        caller = context_of(request.scope).caller
        return [[row for row in rows if _may_see(caller, name_of(row))] for rows in found]

    async def decoded(self, decode: Decode[_T_co], body: bytes) -> _T_co:
        """What a body says, within the limits.

        Raises:
            InvalidRequest: for what is wrong with it.
            Overloaded: for a large one that would have to wait for too many others.
        """
        received_ns = time.monotonic_ns()
        if len(body) < LARGE_BODY:
            return decode(body, received_ns, limits=self.limits)
        return await self.pool.run(decode, body, received_ns, limits=self.limits)


def _may_see(caller: Caller, name: str) -> bool:
    try:
        return caller.models is None or caller.may_use(parse_name(name))
    except InvalidRequest:
        return False


async def services(request: Request) -> Services:
    return request.app.state.services


async def body(request: Request) -> bytes:
    """The request's body, whole.

    Raises:
        BodyTooLarge, BodyTimeout, BodiesFull: by the configured limits.
        UnsupportedEncoding, InvalidRequest: for an encoding that cannot be undone.
    """
    served = await services(request)
    return await _body(request, served, served.max_body_bytes, served.limits.decoded_body_bytes)


async def small_body(request: Request) -> bytes:
    """The body of a route that takes neither pictures nor prompts.

    Raises:
        BodyTooLarge, BodyTimeout: by the configured limits.
    """
    served = await services(request)
    small = min(served.limits.small_body_bytes or served.max_body_bytes, served.max_body_bytes)
    return await _body(request, served, small, small)


async def _body(request: Request, served: Services, limit_bytes: int, decoded_limit_bytes: int) -> bytes:
    return await read_body(
        request.receive,
        limit_bytes=limit_bytes,
        timeout_s=served.body_timeout_s,
        headers=request.scope["headers"],
        bodies=served.bodies,
        decoded_limit_bytes=decoded_limit_bytes,
    )


async def current_context(request: Request) -> RequestContext:
    return context_of(request.scope)


Served = Annotated[Services, Depends(services)]
Body = Annotated[bytes, Depends(body)]
SmallBody = Annotated[bytes, Depends(small_body)]
Context = Annotated[RequestContext, Depends(current_context)]
