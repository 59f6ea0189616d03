"""An error in Ollama's words (docs/reference 1.8)."""

from app.api.dialect import Answer, Dialect
from app.api.errors import headers_of, status_of, text_of
from app.api.wire import JSON, dumps
from app.core.errors import Unauthorized


def failure(error: Exception) -> Answer:
    body = {"error": text_of(error)}
    if isinstance(error, Unauthorized):
        body["status"] = body["error"]  # all that Ollama's command line shows of a 401
    return Answer(status_of(error), {"content-type": JSON, **headers_of(error)}, dumps(body))


OLLAMA = Dialect("ollama", ("",), failure)
"""Every path is Ollama's that is no other API's: its clients know no other server behind theirs."""
