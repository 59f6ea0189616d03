"""One log line a request, written when it is over."""

import json
import logging
from collections.abc import Iterator
from typing import Any

from app.core.context import RequestContext, ToolReport
from app.telemetry.content import messages_of
from app.telemetry.logs import FIELDS
from app.telemetry.metrics import outcome_of

PROBES = frozenset({"/livez", "/readyz", "/startupz", "/metrics"})
"""Routes that machines ask every few seconds."""

_log = logging.getLogger("caravan.access")
_tools = logging.getLogger("caravan.tools")
_DURATIONS = ("load", "queue", "first_token", "prefill", "decode")
_COUNTS = ("prompt_tokens", "cached_tokens", "output_tokens")


def log(ctx: RequestContext) -> None:
    """Probes show at level debug only."""
    level = _level(ctx)
    if _log.isEnabledFor(level):
        _log.log(level, "%s", _line(ctx), extra={FIELDS: fields(ctx)})


def log_tools(ctx: RequestContext) -> None:
    """A line for each call of a built-in tool: what was opened only as its host, unless content is kept."""
    for report in ctx.tools:
        outcome = outcome_of(report)
        level = logging.INFO if outcome == "ok" else logging.WARNING
        if _tools.isEnabledFor(level):
            _tools.log(level, "%s", _tool_line(report, outcome), extra={FIELDS: _tool_fields(ctx, report)})


def _tool_line(report: ToolReport, outcome: str) -> str:
    host = json.dumps(report.host) if report.host else "-"
    return (
        f"{report.tool} {host} {report.status or '-'} {outcome} "
        f"{report.received_bytes} bytes {report.duration_ns / 1e9:.3f} s"
    )


def _tool_fields(ctx: RequestContext, report: ToolReport) -> dict[str, Any]:
    given: dict[str, Any] = {
        "request_id": ctx.request_id,
        "trace_id": ctx.trace_id,
        "key_id": ctx.caller.key_id,
        "tool": report.tool,
        "host": report.host,
        "target": report.target if ctx.keeps_content else "",
        "status": report.status,
        "outcome": outcome_of(report),
        "error_type": report.failure,
        "received_bytes": report.received_bytes,
        "duration_s": round(report.duration_ns / 1e9, 6),
    }
    return {name: value for name, value in given.items() if value}


def fields(ctx: RequestContext) -> dict[str, Any]:
    """What a JSON line says of a request; what is not known or does not apply is left out."""
    given: dict[str, Any] = {
        "request_id": ctx.request_id,
        "trace_id": ctx.trace_id,
        "key_id": ctx.caller.key_id,
        "method": ctx.method,
        "route": ctx.route,
        "path": "" if ctx.route else ctx.path,
        "operation": ctx.operation,
        "model": ctx.model,
        "status": ctx.status,
        "outcome": ctx.outcome,
        "duration_s": round(ctx.duration_ns / 1e9, 6),
        **{f"{name}_s": round(getattr(ctx.work, f"{name}_ns") / 1e9, 6) for name in _DURATIONS},
        **{name: getattr(ctx.work, name) for name in _COUNTS},
        "finish_reason": ctx.finish,
        "error_type": ctx.failure,
        "error": ctx.error,
        "rejection": ctx.rejection,
    }
    found = {name: value for name, value in given.items() if value}
    if ctx.operation:
        found["stream"] = ctx.stream
    if ctx.prompt is not None:
        found |= {"prompt": messages_of(ctx.prompt), "answer": ctx.answer}
    return found


def _level(ctx: RequestContext) -> int:
    if ctx.route in PROBES:
        return logging.DEBUG
    failed = ctx.outcome == "error" and (ctx.status >= 500 or ctx.status < 400)
    return logging.WARNING if failed else logging.INFO


def _line(ctx: RequestContext) -> str:
    return " ".join(_words(ctx))


def _words(ctx: RequestContext) -> Iterator[str]:
    """For people. What a client chose is quoted, so that it cannot make a line of its own."""
    yield f"{ctx.method} {ctx.route or json.dumps(ctx.path)} {ctx.status or '-'}"
    if ctx.outcome != "ok":
        yield ctx.outcome
    if ctx.model:
        yield ctx.model
    if ctx.work.prompt_tokens or ctx.work.output_tokens:
        yield f"{ctx.work.prompt_tokens}+{ctx.work.output_tokens} tokens"
    if ctx.work.first_token_ns:
        yield f"first after {ctx.work.first_token_ns / 1e9:.3f} s,"
    yield f"{ctx.duration_ns / 1e9:.3f} s"
    if ctx.caller.key_id:
        yield f"key {ctx.caller.key_id}"
    yield f"id {ctx.request_id}"
    if ctx.error:
        yield json.dumps(ctx.error)
