"""vLLM's own Prometheus metrics, in a registry per engine.

vLLM registers them globally, and a second engine in the process would unregister the first one's.
"""

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.samples import Sample
from vllm.v1.metrics.loggers import PrometheusStatLogger


class BufferedHistogram(Histogram):
    """A histogram that sorts values into its buckets many at a time: vLLM observes one for every token."""

    _most = 1024

    def _metric_init(self) -> None:
        super()._metric_init()
        self._pending: list[float] = []

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        self._pending.append(amount)
        if len(self._pending) >= self._most:
            self._sort()

    def _child_samples(self) -> Iterable[Sample]:
        self._sort()
        return super()._child_samples()

    def _sort(self) -> None:
        pending, self._pending = self._pending, []
        for bucket, count in Counts(bisect_left(self._upper_bounds, amount) for amount in pending).items():
            self._buckets[bucket].inc(count)
        self._sum.inc(sum(pending))


def stat_logger(registry: CollectorRegistry) -> type[PrometheusStatLogger]:
    """A stat logger class whose metrics live in `registry`."""

    def bound(metric: Any) -> Any:
        return staticmethod(lambda *args, **kwargs: metric(*args, registry=registry, **kwargs))

    return type(
        "EngineMetrics",
        (PrometheusStatLogger,),
        {
            "_gauge_cls": bound(Gauge),
            "_counter_cls": bound(Counter),
            "_histogram_cls": bound(BufferedHistogram),
        },
    )


def gauge(registry: CollectorRegistry, name: str) -> float:
    """The sum of a gauge over its labels; 0 before the first sample. Only this metric is looked at."""
    found = registry.restricted_registry([name]).collect()
    return sum(sample.value for family in found for sample in family.samples)
