"""The `format` field: what the answer must be (docs/reference 4.3)."""

import json

from app.core.errors import InvalidRequest
from app.core.request import Constraint, Json
from app.golang.quote import quoted


def read_format(raw: Json) -> Constraint | None:
    """The constraint that `raw` asks for; None for an answer that is free.

    Raises:
        InvalidRequest: for anything but null, "", "json" and a schema object.
    """
    if raw is None or raw == "":
        return None
    if raw == "json":
        return Constraint()
    if isinstance(raw, dict):
        return Constraint(raw)
    sent = json.dumps(raw, ensure_ascii=False, separators=(",", ":"))
    raise InvalidRequest(f'invalid format: {quoted(sent)}; expected "json" or a valid JSON Schema object')
