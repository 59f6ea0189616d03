"""A receiver of OTLP over HTTP that keeps what it was sent."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class SentEvent:
    """One event of a span."""

    name: str
    time_ns: int
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SentSpan:
    """One span, as it was sent; ids in hexadecimal."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    begun_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: list[SentEvent]


class Collector:
    """What has come so far."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[tuple[str, bytes]] = []

    def spans(self, trace_id: str) -> list[SentSpan]:
        """The spans of one trace."""
        found: list[SentSpan] = []
        for body in self._bodies("/v1/traces"):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                about = _attributes(resource.resource.attributes)
                spans = (span for scope in resource.scope_spans for span in scope.spans)
                found += [_sent(span, about) for span in spans]
        return [span for span in found if span.trace_id == trace_id]

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The newest points of a metric with their attributes; none if it has not come yet."""
        for body in reversed(self._bodies("/v1/metrics")):
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == name:
                            points = getattr(metric, metric.WhichOneof("data") or "").data_points
                            return [(_attributes(point.attributes), point) for point in points]
        return []

    def _bodies(self, path: str) -> list[bytes]:
        return [body for each, body in list(self.bodies) if each == path]


@contextmanager
def collecting() -> Generator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.bodies.append((self.path, body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _sent(span: Any, resource: dict[str, Any]) -> SentSpan:
    return SentSpan(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
        resource,
        [SentEvent(event.name, event.time_unix_nano, _attributes(event.attributes)) for event in span.events],
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_value(each) for each in found.values] if kind == "array_value" else found
