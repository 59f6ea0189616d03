"""An error in Ollama's words (docs/reference 1.8)."""

from functools import partial

from app.api.dialect import Answer, Dialect
from app.api.errors import headers_of, status_of, text_of
from app.api.wire import JSON, dumps
from app.core.errors import Unauthorized


def failure(error: Exception, signin_url: str = "") -> Answer:
    """`signin_url` is where people are sent who are not let in; empty is nowhere."""
    body = {"error": text_of(error)}
    if isinstance(error, Unauthorized):
        # All that Ollama's command line shows of a 401: the one of lists, the other of run and push.
        body["status"] = body["error"]
        if signin_url:
            body["signin_url"] = signin_url
    return Answer(status_of(error), {"content-type": JSON, **headers_of(error)}, dumps(body))


def dialect(signin_url: str = "") -> Dialect:
    """Every path is Ollama's that is no other API's: its clients know no other server behind theirs."""
    return Dialect("ollama", ("",), partial(failure, signin_url=signin_url))


OLLAMA = dialect()
