"""An error in Anthropic's words (docs/reference 15)."""

import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from app.api.dialect import Answer, Dialect
from app.api.errors import headers_of, status_of, text_of
from app.api.wire import JSON, dumps

_TYPES = {
    HTTPStatus.BAD_REQUEST: "invalid_request_error",
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
}


def error_document(error: Exception) -> Mapping[str, Any]:
    """The envelope, for an answer or for an `error` event of a stream."""
    kind = _TYPES.get(status_of(error), "api_error")
    told = {"type": kind, "message": text_of(error)}
    return {"type": "error", "error": told, "request_id": f"req_{secrets.token_hex(12)}"}


def failure(error: Exception) -> Answer:
    headers = {"content-type": JSON, **headers_of(error)}
    return Answer(status_of(error), headers, dumps(error_document(error)))


ANTHROPIC = Dialect("anthropic", ("/v1/messages",), failure)
