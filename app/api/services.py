"""What a route may ask for: the parts of the running server, put there once by `main`."""

import time
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from app.api.body import read_body
from app.api.calls import call_of
from app.api.ollama.dialect import Dialect
from app.catalogue.library import Library
from app.core.call import Call
from app.core.limits import InputLimits
from app.core.pool import Pool
from app.peers.peers import Peers
from app.runtime.lifecycle import Lifecycle
from app.runtime.manager import Manager
from app.runtime.pipeline import Pipeline
from app.telemetry.report import Telemetry


@dataclass(frozen=True, slots=True)
class Services:
    """The running server, as its routes see it."""

    library: Library
    manager: Manager
    pipeline: Pipeline
    telemetry: Telemetry
    max_body_bytes: int
    body_timeout_s: float
    request_timeout_s: float
    api_version: str
    dialect: Dialect
    lifecycle: Lifecycle
    peers: Peers
    limits: InputLimits
    pool: Pool

    def time_left_s(self, call: Call) -> float:
        """How long a request may still take; `inf` is for ever."""
        return self.request_timeout_s - (time.monotonic_ns() - call.arrived_ns) / 1e9


async def services(request: Request) -> Services:
    return request.app.state.services


async def body(request: Request) -> bytes:
    """The request's body, whole.

    Raises:
        BodyTooLarge, BodyTimeout: by the configured limits.
    """
    served = await services(request)
    return await read_body(
        request.receive,
        limit_bytes=served.max_body_bytes,
        timeout_s=served.body_timeout_s,
        headers=request.scope["headers"],
    )


async def current_call(request: Request) -> Call:
    return call_of(request.scope)


Served = Annotated[Services, Depends(services)]
Body = Annotated[bytes, Depends(body)]
CurrentCall = Annotated[Call, Depends(current_call)]
