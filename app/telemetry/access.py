"""One log line a request, written when it is over."""

import json
import logging
from collections.abc import Iterator
from typing import Any

from app.core.call import Call
from app.telemetry.content import messages_of
from app.telemetry.logs import FIELDS

PROBES = frozenset({"/livez", "/readyz", "/startupz", "/metrics"})
"""Routes that machines ask every few seconds."""

_log = logging.getLogger("caravan.access")
_DURATIONS = ("load", "queue", "first_token", "prefill", "decode")
_COUNTS = ("prompt_tokens", "cached_tokens", "output_tokens")


def log(call: Call) -> None:
    """Probes show at level debug only."""
    level = _level(call)
    if _log.isEnabledFor(level):
        _log.log(level, "%s", _line(call), extra={FIELDS: fields(call)})


def fields(call: Call) -> dict[str, Any]:
    """What a JSON line says of a request; what is not known or does not apply is left out."""
    given: dict[str, Any] = {
        "request_id": call.request_id,
        "trace_id": call.trace_id,
        "key_id": call.caller.key_id,
        "method": call.method,
        "route": call.route,
        "path": "" if call.route else call.path,
        "operation": call.operation,
        "model": call.model,
        "status": call.status,
        "outcome": call.outcome,
        "duration_s": round(call.duration_ns / 1e9, 6),
        **{f"{name}_s": round(getattr(call, f"{name}_ns") / 1e9, 6) for name in _DURATIONS},
        **{name: getattr(call, name) for name in _COUNTS},
        "finish_reason": call.finish,
        "error_type": call.failure,
        "error": call.error,
        "rejection": call.rejection,
    }
    found = {name: value for name, value in given.items() if value}
    if call.operation:
        found["stream"] = call.stream
    if call.prompt is not None:
        found |= {"prompt": messages_of(call.prompt), "answer": call.answer}
    return found


def _level(call: Call) -> int:
    if call.route in PROBES:
        return logging.DEBUG
    failed = call.outcome == "error" and (call.status >= 500 or call.status < 400)
    return logging.WARNING if failed else logging.INFO


def _line(call: Call) -> str:
    return " ".join(_words(call))


def _words(call: Call) -> Iterator[str]:
    """For people. What a client chose is quoted, so that it cannot make a line of its own."""
    yield f"{call.method} {call.route or json.dumps(call.path)} {call.status or '-'}"
    if call.outcome != "ok":
        yield call.outcome
    if call.model:
        yield call.model
    if call.prompt_tokens or call.output_tokens:
        yield f"{call.prompt_tokens}+{call.output_tokens} tokens"
    if call.first_token_ns:
        yield f"first after {call.first_token_ns / 1e9:.3f} s,"
    yield f"{call.duration_ns / 1e9:.3f} s"
    if call.caller.key_id:
        yield f"key {call.caller.key_id}"
    yield f"id {call.request_id}"
    if call.error:
        yield json.dumps(call.error)
