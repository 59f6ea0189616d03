"""Where telemetry is sent by OTLP, and what sends it. Addresses, headers and times are read by OpenTelemetry
itself from its standard variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace.export import SpanExporter

Protocol: TypeAlias = Literal["http/protobuf", "grpc"]
PROTOCOLS: Mapping[str, Protocol] = {each: each for each in get_args(Protocol)}


@dataclass(frozen=True, slots=True)
class Otlp:
    """The protocol of each signal; None where it is not sent."""

    metrics: Protocol | None = None
    traces: Protocol | None = None


# Each protocol is imported where it is used: gRPC takes a while.


def metric_exporter(protocol: Protocol) -> MetricExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc

        return grpc.OTLPMetricExporter()
    from opentelemetry.exporter.otlp.proto.http import metric_exporter as http

    return http.OTLPMetricExporter()


def span_exporter(protocol: Protocol) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc

        return grpc.OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http

    return http.OTLPSpanExporter()
