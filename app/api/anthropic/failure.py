"""An error in Anthropic's words (docs/reference 15.1)."""

import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from app.api.dialect import Answer, Dialect
from app.api.errors import headers_of, status_of, text_of
from app.api.wire import JSON, dumps
from app.core.errors import InvalidRequest

OVERLOADED = 529
"""What Anthropic's servers answer where others say 503: its clients know it by this number."""

REQUEST_ID = "request-id"
"""The header in which Anthropic's clients look for an answer's id."""

_TYPES: Mapping[int, str] = {
    HTTPStatus.BAD_REQUEST: "invalid_request_error",
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    OVERLOADED: "overloaded_error",
}


class NoThreads(InvalidRequest):
    """A server is to hold the conversation. Anthropic's clients go on without when they read `details`."""

    details: ClassVar[Mapping[str, Any]] = {"error_code": "thread_unsupported_request"}

    def __init__(self) -> None:
        super().__init__("thread: this server holds no conversations: send the whole of it")


def new_request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def error_document(error: Exception, request_id: str) -> Mapping[str, Any]:
    """The envelope, for an answer or for an `error` event of a stream."""
    told: dict[str, Any] = {"type": _TYPES.get(_status_of(error), "api_error"), "message": text_of(error)}
    if isinstance(error, NoThreads):
        told["details"] = error.details
    return {"type": "error", "error": told, "request_id": request_id}


def failure(error: Exception, request_id: str = "") -> Answer:
    """The answer to a request that failed; its id is made here unless it has one."""
    request_id = request_id or new_request_id()
    headers = {"content-type": JSON, REQUEST_ID: request_id, **headers_of(error)}
    return Answer(_status_of(error), headers, dumps(error_document(error, request_id)))


def _status_of(error: Exception) -> int:
    status = status_of(error)
    return OVERLOADED if status == HTTPStatus.SERVICE_UNAVAILABLE else int(status)


ANTHROPIC = Dialect("anthropic", ("/v1/messages",), failure)
