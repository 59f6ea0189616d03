"""A failure as an answer, in the words of the API that was called."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.context import note_failure
from app.api.dialect import Answer, dialect_of
from app.api.errors import text_of


class Refusal(Response):
    """An error as an answer, which the record of the request takes note of.

    `failure` is for a route that words it itself.
    """

    def __init__(self, error: Exception, failure: Answer | None = None) -> None:
        super().__init__()
        self._error = error
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        note_failure(scope, self._error, text_of(self._error))
        status, headers, body = self._failure or dialect_of(scope).failure(self._error)
        await Response(body, status, headers)(scope, receive, send)


async def handle(_: Request, error: Exception) -> Response:
    """The exception handler for everything in `errors.HANDLED`."""
    return Refusal(error)
