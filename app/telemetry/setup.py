"""Puts OpenTelemetry together: what is measured, where it can be read and where it is sent."""

import socket

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import set_tracer_provider
from prometheus_client import CollectorRegistry

from app import __version__
from app.telemetry.metrics import Metrics
from app.telemetry.otlp import Otlp, metric_exporter, span_exporter
from app.telemetry.report import Telemetry
from app.telemetry.spans import GivenIds, Spans

NAME = "caravan"


def start(
    otlp: Otlp = Otlp(),  # noqa: B008  # it is frozen
    *,
    keeps_content: bool = False,
    front_end: int = 0,
) -> Telemetry:
    """Telemetry that `/metrics` can show and that goes where `otlp` says; a front end's has its number."""
    registry = CollectorRegistry()
    readers: list[MetricReader] = [
        PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=registry)
    ]
    if otlp.metrics:
        readers.append(PeriodicExportingMetricReader(metric_exporter(otlp.metrics)))
    resource = _resource(front_end)
    meters = MeterProvider(readers, resource, shutdown_on_exit=False)
    metrics = Metrics(meters.get_meter(NAME, __version__))
    if otlp.traces is None:
        return Telemetry(metrics, Spans(None), registry, [meters.shutdown], keeps_content=keeps_content)
    ids = GivenIds()
    traces = TracerProvider(resource=resource, shutdown_on_exit=False, id_generator=ids)
    traces.add_span_processor(BatchSpanProcessor(span_exporter(otlp.traces)))
    # The global one, which vLLM's own spans go through too.
    set_tracer_provider(traces)
    spans = Spans(traces.get_tracer(NAME, __version__), ids)
    closers = [traces.shutdown, meters.shutdown]
    return Telemetry(metrics, spans, registry, closers, keeps_content=keeps_content)


def _resource(front_end: int) -> Resource:
    """Our name, unless the standard variables have another."""
    ours = Resource.create({"service.name": NAME, "service.version": __version__})
    given = ours.merge(OTELResourceDetector().detect())
    if not front_end:
        return given
    # What several processes of one server send must not be taken for one's.
    instance = given.attributes.get("service.instance.id") or socket.gethostname()
    return given.merge(Resource({"service.instance.id": f"{instance}-{front_end}"}))
