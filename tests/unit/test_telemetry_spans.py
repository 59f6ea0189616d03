"""The span of a request and its children, as an exporter gets them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from app.core.context import Caller
from app.core.request import ChatPrompt, Message, Sampling
from app.telemetry.spans import GivenIds, Spans
from tests.contexts import context

MS = 1_000_000
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
BEGUN_NS = 1_795_629_600 * 1_000_000_000
CHAT: dict[str, Any] = {
    "started_ns": BEGUN_NS,
    "method": "POST",
    "path": "/api/chat",
    "route": "/api/chat",
    "operation": "chat",
    "model": "m:latest",
    "status": 200,
    "answered": True,
    "duration_ns": 1000 * MS,
}


class Traced:
    """Runs a call from begin to end and keeps its spans."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        ids = GivenIds()
        provider = TracerProvider(shutdown_on_exit=False, id_generator=ids)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.spans = Spans(provider.get_tracer("test"), ids)

    def run(self, **changes: Any) -> dict[str, ReadableSpan]:
        """The spans of a call by their names."""
        ctx = context(**(CHAT | changes))
        begun = self.spans.begin(ctx)
        if begun is not None:
            self.spans.end(begun, ctx)
        return self.spans_made()

    def spans_made(self) -> dict[str, ReadableSpan]:
        return {each.name: each for each in self.finished()}

    def finished(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_the_span_of_a_chat_joins_the_clients_trace() -> None:
    span = Traced().run(trace=SAMPLED)["chat m:latest"]
    context = span.get_span_context()
    assert context is not None
    assert format_trace_id(context.trace_id) == TRACE
    assert context.trace_state.get("vendor") == "1"
    assert span.parent is not None
    assert format_span_id(span.parent.span_id) == PARENT
    assert (span.kind, span.status.status_code) == (SpanKind.SERVER, StatusCode.UNSET)
    assert (span.start_time, span.end_time) == (BEGUN_NS, BEGUN_NS + 1000 * MS)


def test_the_engine_gets_the_span_as_its_parent() -> None:
    traced = Traced()
    ctx = context(**CHAT, trace=SAMPLED)
    begun = traced.spans.begin(ctx)
    assert begun is not None
    given = dict(ctx.trace)
    traced.spans.end(begun, ctx)
    made = traced.spans_made()["chat m:latest"].get_span_context()
    assert made is not None
    assert given["traceparent"] == f"00-{TRACE}-{format_span_id(made.span_id)}-01"
    assert given["tracestate"] == "vendor=1"
    assert ctx.trace_id == format_trace_id(made.trace_id) == TRACE


def test_spans_have_ids_of_their_own() -> None:
    traced = Traced()
    for _ in range(3):
        traced.run(first_token_ns=500 * MS)
    contexts = [each.get_span_context() for each in traced.finished()]
    assert len({each.span_id for each in contexts if each}) == 3
    assert len({each.trace_id for each in contexts if each}) == 3


def test_what_is_told_of_a_good_answer() -> None:
    span = Traced().run(
        request_id="r1",
        caller=Caller(key_id="k1"),
        stream=True,
        sampling=Sampling(temperature=0.0, seed=7, num_predict=20, stop=("a secret",)),
        prompt_tokens=7,
        cached_tokens=4,
        output_tokens=3,
        first_token_ns=500 * MS,
        finish="stop",
    )["chat m:latest"]
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.route": "/api/chat",
        "url.path": "/api/chat",
        "http.response.status_code": 200,
        "caravan.key.id": "k1",
        "caravan.request.id": "r1",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "m:latest",
        "gen_ai.response.model": "m:latest",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 40,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.seed": 7,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 0.5,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 4,
    }


def test_queue_prefill_and_decode_are_laid_around_the_first_token() -> None:
    spans = Traced().run(
        first_token_ns=500 * MS, queue_ns=100 * MS, prefill_ns=200 * MS, decode_ns=400 * MS, output_tokens=2
    )
    told = [
        (event.name, (event.timestamp - BEGUN_NS) // MS, dict(event.attributes or {}))
        for event in spans["chat m:latest"].events
    ]
    assert told == [
        ("scheduled", 300, {"caravan.queue.duration": 0.1}),
        ("first_token", 500, {"caravan.prefill.duration": 0.2}),
        ("last_token", 900, {"caravan.decode.duration": 0.4}),
    ]


def test_without_a_first_token_there_are_no_events() -> None:
    (span,) = Traced().run(answered=False).values()
    assert span.events == ()


@pytest.mark.parametrize(
    ("changes", "error", "status"),
    [
        ({"failure": "EngineDied", "error": "it died"}, "EngineDied", StatusCode.ERROR),
        ({"status": 500}, "500", StatusCode.ERROR),
        ({"status": 404, "failure": "ModelNotFound"}, "ModelNotFound", StatusCode.UNSET),
        ({"answered": False}, "cancelled", StatusCode.UNSET),
    ],
)
def test_a_request_that_did_not_succeed(changes: dict[str, Any], error: str, status: StatusCode) -> None:
    (span,) = Traced().run(**changes).values()
    assert attributes(span)["error.type"] == error
    assert span.status.status_code is status
    assert span.status.description == ({"EngineDied": "it died", "500": ""}.get(error))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"operation": "", "route": "/api/tags", "method": "GET"}, "GET /api/tags"),
        ({"operation": "", "route": "", "path": "/evil", "method": "GET"}, "GET"),
        ({"model": ""}, "chat"),
    ],
)
def test_a_name_holds_nothing_that_only_a_client_knows(changes: dict[str, Any], name: str) -> None:
    assert set(Traced().run(**changes)) == {name}


def test_content_is_told_only_where_it_was_kept() -> None:
    prompt = ChatPrompt((Message.of("user", "a secret"),))
    told = attributes(Traced().run(prompt=prompt, answer="the answer", finish="stop")["chat m:latest"])
    assert told["gen_ai.input.messages"] == (
        '[{"role": "user", "parts": [{"type": "text", "content": "a secret"}]}]'
    )
    (answer,) = json.loads(told["gen_ai.output.messages"])
    assert answer["parts"] == [{"type": "text", "content": "the answer"}]
    assert (answer["role"], answer["finish_reason"]) == ("assistant", "stop")
    untold = attributes(Traced().run()["chat m:latest"])
    assert not [name for name in untold if "messages" in name]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_probes_have_no_span(path: str) -> None:
    assert Traced().run(path=path, route=path, operation="") == {}


def test_a_trace_that_the_client_does_not_record_is_not_recorded_here() -> None:
    traced = Traced()
    ctx = replace(context(**CHAT), trace={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    span = traced.spans.begin(ctx)
    assert span is not None
    traced.spans.end(span, ctx)
    assert traced.run(path="/livez") == {}
    assert ctx.trace["traceparent"].endswith("-00"), "the engine must not record it either"
    assert ctx.trace_id == TRACE


@pytest.mark.parametrize(
    ("headers", "trace_id"),
    [(SAMPLED, TRACE), ({}, ""), ({"traceparent": "nonsense"}, ""), ({"tracestate": "a=1"}, "")],
)
def test_where_nothing_is_traced_the_clients_id_is_still_known(
    headers: dict[str, str], trace_id: str
) -> None:
    ctx = context(**CHAT, trace=headers)
    assert Spans(None).begin(ctx) is None
    assert (ctx.trace_id, ctx.trace) == (trace_id, headers)
