"""Puts OpenTelemetry together: what is measured, where it can be read and where it is sent."""

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from prometheus_client import CollectorRegistry

from app import __version__
from app.telemetry.metrics import Metrics
from app.telemetry.otlp import Otlp, metric_exporter
from app.telemetry.report import Telemetry

NAME = "caravan"


def start(otlp: Otlp = Otlp()) -> Telemetry:  # noqa: B008  # it is frozen
    """Telemetry that `/metrics` can show and that goes where `otlp` says."""
    registry = CollectorRegistry()
    readers: list[MetricReader] = [
        PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=registry)
    ]
    if otlp.metrics:
        readers.append(PeriodicExportingMetricReader(metric_exporter(otlp.metrics)))
    meters = MeterProvider(readers, _resource(), shutdown_on_exit=False)
    return Telemetry(Metrics(meters.get_meter(NAME, __version__)), registry, [meters.shutdown])


def _resource() -> Resource:
    """Our name, unless the standard variables have another."""
    ours = Resource.create({"service.name": NAME, "service.version": __version__})
    return ours.merge(OTELResourceDetector().detect())
