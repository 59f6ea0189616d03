"""An error in OpenAI's words (docs/reference 13)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from app.api.dialect import Answer, Dialect
from app.api.errors import headers_of, status_of, text_of
from app.api.wire import JSON, dumps

_TYPES = {HTTPStatus.BAD_REQUEST: "invalid_request_error", HTTPStatus.NOT_FOUND: "not_found_error"}


def error_document(error: Exception) -> Mapping[str, Any]:
    """The envelope, for an answer or for the last frame of a stream."""
    kind = _TYPES.get(status_of(error), "api_error")
    return {"error": {"message": text_of(error), "type": kind, "param": None, "code": None}}


def failure(error: Exception) -> Answer:
    headers = {"content-type": JSON, **headers_of(error)}
    return Answer(status_of(error), headers, dumps(error_document(error)))


OPENAI = Dialect("openai", ("/v1/",), failure)
