"""Routes of an API that are not served: a client that asks for one is told why, in the words of that API."""

from collections.abc import Iterable
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.responses import Response

from app.api.guard import needs
from app.api.refusal import Refusal
from app.core.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Unserved:
    """A path that some `methods` of an API have; `reason` is what the client reads."""

    methods: tuple[str, ...]
    path: str
    reason: str


def refusing(routes: Iterable[Unserved]) -> APIRouter:
    """A router that answers each of these with 403 and its reason."""
    router = APIRouter()
    for unserved in routes:
        _add(router, unserved)
    return router


def _add(router: APIRouter, unserved: Unserved) -> None:
    @needs("key")
    async def refuse() -> Response:
        return Refusal(Forbidden(unserved.reason))

    router.add_api_route(unserved.path, refuse, methods=list(unserved.methods))
