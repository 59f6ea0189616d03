"""The span of a request, within the trace of the client; the engine's own span stands under it.

A span is made when all is over, its events from the times that the engine measured: while others wait for
their first token there is time for no more than the ids that the engine has to know.
"""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.core.context import RequestContext, ToolReport
from app.core.request import Sampling
from app.telemetry import instruments
from app.telemetry.access import PROBES
from app.telemetry.content import answer_of, messages_of
from app.telemetry.metrics import error_of

PROVIDER = "vllm"
_PROPAGATOR = TraceContextTextMapPropagator()

Attributes: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Begun:
    """A span that is not made yet: what it is made in, and its own context."""

    within: Context
    own: SpanContext


class GivenIds(IdGenerator):
    """Makes the ids of a tracer provider; a span that was given its own before gets those."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._given: SpanContext | None = None

    @contextmanager
    def of(self, given: SpanContext) -> Generator[None]:
        """For the span that is made within."""
        self._given = given
        try:
            yield
        finally:
            self._given = None

    def generate_span_id(self) -> int:
        return self._given.span_id if self._given else self._random.generate_span_id()

    def generate_trace_id(self) -> int:
        return self._given.trace_id if self._given else self._random.generate_trace_id()


class Spans:
    """Makes the spans of requests. Without a tracer, whose provider has these `ids`, only the client's trace
    id is read."""

    def __init__(self, tracer: Tracer | None, ids: GivenIds | None = None) -> None:
        self._tracer = tracer if isinstance(tracer, SdkTracer) else None  # one that does nothing is none
        self._ids = ids or GivenIds()

    def begin(self, ctx: RequestContext) -> Begun | None:
        """The span of a request, which becomes the parent of what the engine makes of it."""
        if self._tracer is None or ctx.path in PROBES:
            ctx.trace_id = trace_id_of(ctx.trace)
            return None
        within = _PROPAGATOR.extract(ctx.trace)
        parent = get_current_span(within).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else self._ids.generate_trace_id()
        sampled = self._tracer.sampler.should_sample(within, trace_id, ctx.method, SpanKind.SERVER)
        flags = TraceFlags(TraceFlags.SAMPLED if sampled.decision.is_sampled() else TraceFlags.DEFAULT)
        own = SpanContext(trace_id, self._ids.generate_span_id(), False, flags, sampled.trace_state)
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(NonRecordingSpan(own)))
        ctx.trace = carrier
        ctx.trace_id = format_trace_id(trace_id)
        return Begun(within, own)

    def end(self, begun: Begun, ctx: RequestContext) -> None:
        if self._tracer is None or not begun.own.trace_flags.sampled:
            return
        with self._ids.of(begun.own):
            span = self._tracer.start_span(
                _name(ctx), begun.within, SpanKind.SERVER, start_time=ctx.started_ns
            )
        for name, duration, lasted_ns, ended_ns in phases(ctx):
            span.add_event(name, {duration: lasted_ns / 1e9}, ended_ns)
        span.set_attributes(_http(ctx))
        if ctx.operation:
            span.set_attributes(_gen_ai(ctx))
        if ctx.outcome == "error" and (ctx.status >= 500 or ctx.status < 400):
            span.set_status(StatusCode.ERROR, ctx.error or ctx.failure)
        self._tools(set_span_in_context(span), ctx)
        span.end(ctx.started_ns + ctx.duration_ns)

    def _tools(self, within: Context, ctx: RequestContext) -> None:
        """A span for each call of a built-in tool, under that of the request."""
        assert self._tracer is not None
        for report in ctx.tools:
            span = self._tracer.start_span(
                f"execute_tool {report.tool}", within, SpanKind.INTERNAL, start_time=report.started_ns
            )
            span.set_attributes(_tool(ctx, report))
            if report.failure:
                span.set_status(StatusCode.ERROR, report.failure)
            span.end(report.started_ns + report.duration_ns)


def trace_id_of(headers: Mapping[str, str]) -> str:
    """Empty where the client is not tracing, or says so in a way that is not valid."""
    if "traceparent" not in headers:
        return ""
    span = get_current_span(_PROPAGATOR.extract(headers)).get_span_context()
    return format_trace_id(span.trace_id) if span.is_valid else ""


def phases(ctx: RequestContext) -> Iterator[tuple[str, str, int, int]]:
    """Queue, prefill and decode, laid around the first token: the event that ends each, the attribute for how
    long it lasted, that, and when it ended by the wall clock.

    The engine's clock is another than the request's, so what would stand out of the request is cut.
    """
    if not ctx.work.first_token_ns:
        return
    first_ns = ctx.started_ns + ctx.work.first_token_ns
    scheduled_ns = max(first_ns - ctx.work.prefill_ns, ctx.started_ns)
    queue_ns = min(ctx.work.queue_ns, scheduled_ns - ctx.started_ns)
    decode_ns = min(ctx.work.decode_ns, ctx.duration_ns - ctx.work.first_token_ns)
    yield "scheduled", "caravan.queue.duration", queue_ns, scheduled_ns
    yield "first_token", "caravan.prefill.duration", first_ns - scheduled_ns, first_ns
    yield "last_token", "caravan.decode.duration", decode_ns, first_ns + decode_ns


def _name(ctx: RequestContext) -> str:
    """By the conventions, and never with a word that only a client knows."""
    words = (ctx.operation, ctx.model) if ctx.operation else (ctx.method, ctx.route)
    return " ".join(word for word in words if word)


def _http(ctx: RequestContext) -> Attributes:
    return _known(
        {
            instruments.METHOD: ctx.method,
            instruments.ROUTE: ctx.route,
            "url.path": ctx.path,
            instruments.STATUS: ctx.status,
            instruments.ERROR: error_of(ctx),
            instruments.KEY: ctx.caller.key_id,
            "caravan.request.id": ctx.request_id,
            "caravan.rejection": ctx.rejection,
        }
    )


def _gen_ai(ctx: RequestContext) -> Attributes:
    told = {
        instruments.OPERATION: ctx.operation,
        "gen_ai.provider.name": PROVIDER,
        instruments.MODEL: ctx.model,
        "gen_ai.response.model": ctx.model if ctx.work.output_tokens else "",
        "gen_ai.request.stream": ctx.stream,
        "gen_ai.response.finish_reasons": [ctx.finish] if ctx.finish else [],
        "gen_ai.response.time_to_first_chunk": ctx.work.first_token_ns / 1e9,
        "gen_ai.usage.input_tokens": ctx.work.prompt_tokens,
        "gen_ai.usage.output_tokens": ctx.work.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": ctx.work.cached_tokens,
        "caravan.load.duration": ctx.work.load_ns / 1e9,
    }
    if ctx.prompt is not None:
        told |= {
            "gen_ai.input.messages": json.dumps(messages_of(ctx.prompt)),
            "gen_ai.output.messages": json.dumps(answer_of(ctx.answer, ctx.finish)),
        }
    asked = _request(ctx.sampling) if ctx.sampling is not None else {}
    return _known(told) | asked


def _tool(ctx: RequestContext, report: ToolReport) -> Attributes:
    return _known(
        {
            instruments.OPERATION: "execute_tool",
            instruments.TOOL: report.tool,
            "server.address": report.host,
            "gen_ai.tool.call.arguments": report.target if ctx.keeps_content else "",
            instruments.STATUS: report.status,
            instruments.ERROR: report.failure,
            "caravan.tool.received": report.received_bytes,
        }
    )


def _request(sampling: Sampling) -> Attributes:
    """What was asked of the model; stop strings are content and are left out."""
    asked: Attributes = {
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
    }
    if sampling.num_predict > 0:
        asked["gen_ai.request.max_tokens"] = sampling.num_predict
    if sampling.seed >= 0:
        asked["gen_ai.request.seed"] = sampling.seed
    return asked


def _known(attributes: Attributes) -> Attributes:
    return {name: value for name, value in attributes.items() if value}
