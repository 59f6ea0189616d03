"""How Ollama writes times (docs/reference 1.7)."""

import time
from datetime import datetime
from functools import lru_cache

NDJSON = "application/x-ndjson"


@lru_cache(maxsize=8)
def _second(unix_s: str) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(int(unix_s)))


def utc_stamp(unix_ns: int) -> str:
    """`created_at`: UTC with as many of the nine fractional digits as are needed."""
    digits = str(unix_ns)
    fraction = digits[-9:].rstrip("0")
    return f"{_second(digits[:-9])}.{fraction}Z" if fraction else f"{_second(digits[:-9])}Z"


def local_stamp(moment: datetime) -> str:
    """`modified_at` and `expires_at`: in the zone of the server."""
    local = moment.astimezone()
    text = local.replace(tzinfo=None).isoformat()
    zone = local.isoformat()[len(text) :][:6]
    if local.microsecond:
        text = text.rstrip("0")
    return f"{text}Z" if zone == "+00:00" else text + zone
