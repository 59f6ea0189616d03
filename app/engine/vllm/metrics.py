"""vLLM's own Prometheus metrics, in a registry per engine.

vLLM registers them globally, and a second engine in the process would unregister the first one's.
"""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from vllm.v1.metrics.loggers import PrometheusStatLogger


def stat_logger(registry: CollectorRegistry) -> type[PrometheusStatLogger]:
    """A stat logger class whose metrics live in `registry`."""

    def bound(metric: Any) -> Any:
        return staticmethod(lambda *args, **kwargs: metric(*args, registry=registry, **kwargs))

    return type(
        "EngineMetrics",
        (PrometheusStatLogger,),
        {"_gauge_cls": bound(Gauge), "_counter_cls": bound(Counter), "_histogram_cls": bound(Histogram)},
    )


def gauge(registry: CollectorRegistry, name: str) -> float:
    """The sum of a gauge over its labels; 0 before the first sample."""
    return sum(
        sample.value for family in registry.collect() if family.name == name for sample in family.samples
    )
