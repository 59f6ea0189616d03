"""Routes of Ollama that are not served: a client that asks for one is told why, in the form of that API."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

from fastapi import APIRouter
from starlette.responses import Response

from app.api.dialect import Answer
from app.api.guard import needs
from app.api.ollama.wire import JSON, dumps
from app.api.refusal import Refusal
from app.core.errors import Forbidden

Api: TypeAlias = Literal["ollama", "openai", "anthropic"]

_FIXED = "models of this server come from its configuration"
_ACCOUNTS = "this server has no accounts"
_CLOUD = "ollama cloud is disabled: {} is unavailable"
_LATER = "the {} API is not served in this release"


@dataclass(frozen=True, slots=True)
class Unserved:
    """A path that some `methods` of Ollama have; `reason` is what the client reads."""

    methods: tuple[str, ...]
    path: str
    reason: str
    api: Api = "ollama"


ROUTES = (
    Unserved(("POST",), "/api/create", _FIXED),
    Unserved(("HEAD", "POST"), "/api/blobs/{digest}", _FIXED),
    Unserved(("POST",), "/api/copy", _FIXED),
    Unserved(("DELETE",), "/api/delete", _FIXED),
    Unserved(("POST",), "/api/push", _FIXED),
    Unserved(("POST",), "/api/me", _ACCOUNTS),
    Unserved(("POST",), "/api/signout", _ACCOUNTS),
    Unserved(("DELETE",), "/api/user/keys/{encoded_key}", _ACCOUNTS),
    Unserved(("POST",), "/api/experimental/web_search", _CLOUD.format("web search")),
    Unserved(("POST",), "/api/experimental/web_fetch", _CLOUD.format("web fetch")),
    *(
        Unserved((method,), f"/v1/{path}", _LATER.format("OpenAI"), "openai")
        for method, path in (
            ("POST", "chat/completions"),
            ("POST", "completions"),
            ("POST", "embeddings"),
            ("GET", "models"),
            ("GET", "models/{model}"),
            ("POST", "audio/transcriptions"),
            ("POST", "responses"),
            ("POST", "responses/compact"),
        )
    ),
    Unserved(("POST",), "/v1/messages", _LATER.format("Anthropic"), "anthropic"),
)


def _told(api: Api, reason: str) -> Mapping[str, Any]:
    """An error in the form of each API (docs/reference 1.8, 13 and 15)."""
    match api:
        case "openai":
            return {"error": {"message": reason, "type": "api_error", "param": None, "code": None}}
        case "anthropic":
            error = {"type": "permission_error", "message": reason}
            return {"type": "error", "error": error, "request_id": f"req_{secrets.token_hex(12)}"}
        case _:
            return {"error": reason}


def _add(router: APIRouter, unserved: Unserved) -> None:
    @needs("key")
    async def refuse() -> Response:
        body = dumps(_told(unserved.api, unserved.reason))
        return Refusal(Forbidden(unserved.reason), Answer(HTTPStatus.FORBIDDEN, {"content-type": JSON}, body))

    router.add_api_route(unserved.path, refuse, methods=list(unserved.methods))


router = APIRouter()
for _unserved in ROUTES:
    _add(router, _unserved)
