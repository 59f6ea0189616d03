"""The lines of long work, one JSON object each, or only the last of them (docs/reference 12.1)."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

from starlette.responses import Response

from app.api.dialect import Answer
from app.api.errors import headers_of, status_of, text_of
from app.api.ollama.wire import NDJSON
from app.api.stream import EventResponse, Events
from app.api.wire import BARE_JSON, JSON, dumps
from app.core.errors import Forbidden
from app.registry.progress import Progress


class ProgressEncoder:
    """`EventResponse` takes it for an encoder of events: what passes between them is `Progress`."""

    media_type = NDJSON
    document_type = BARE_JSON

    def __init__(self) -> None:
        self._last = Progress("success")

    def feed(self, event: Any) -> bytes:
        return dumps(_fields(event)) + b"\n"

    def collect(self, event: Any) -> None:
        self._last = event

    def whole(self) -> bytes:
        return dumps(_fields(self._last))

    def error(self, error: Exception) -> bytes:
        return dumps({"error": text_of(error)}) + b"\n"

    def failure(self, error: Exception, *, stream: bool) -> Answer:
        media_type = JSON if isinstance(error, Forbidden) else BARE_JSON
        body = dumps({"error": text_of(error)})
        return Answer(status_of(error), {"content-type": media_type, **headers_of(error)}, body)


def progress_response(lines: AsyncGenerator[Progress], *, stream: bool, limit_s: float) -> Response:
    """Sends each line as it comes, or the last one alone; leaving it ends the work."""
    return EventResponse(cast(Events, _batches(lines)), ProgressEncoder(), stream=stream, limit_s=limit_s)


async def _batches(lines: AsyncGenerator[Progress]) -> AsyncGenerator[Sequence[Progress]]:
    try:
        async for line in lines:
            yield (line,)
    finally:
        await lines.aclose()


def _fields(line: Progress) -> dict[str, Any]:
    fields: dict[str, Any] = {"status": line.status}
    if line.digest:
        fields["digest"] = line.digest
        fields["total"] = line.total
        if line.completed:
            fields["completed"] = line.completed
    return fields
