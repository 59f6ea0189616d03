"""Failures of the Responses API: in the envelope of OpenAI's routes, some with a code, and in a stream."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from app.api.dialect import Answer
from app.api.errors import status_of, text_of
from app.api.openai.failure import error_document, failure
from app.api.wire import dumps
from app.core.errors import InvalidRequest

_STREAM_CODES = {
    HTTPStatus.BAD_REQUEST: "invalid_prompt",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_exceeded",
}
"""Any other is `server_error`."""


def coded_failure(error: Exception) -> Answer:
    """The answer to a compaction that cannot be had: its errors have a code (docs/reference 22.3)."""
    answer, code = failure(error), getattr(error, "code", None)
    if code is None and isinstance(error, InvalidRequest) and answer.status == HTTPStatus.BAD_REQUEST:
        code = "invalid_request_error"
    if code is None:
        return answer
    document = error_document(error)
    return answer._replace(body=dumps({"error": {**document["error"], "code": code}}))


def stream_error(error: Exception) -> Mapping[str, Any]:
    """What a response that failed says of it."""
    code = getattr(error, "code", None) or _STREAM_CODES.get(status_of(error), "server_error")
    return {"code": code, "message": text_of(error)}
