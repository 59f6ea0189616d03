"""vLLM's own Prometheus metrics, in a registry per engine.

vLLM registers them globally, and a second engine in the process would unregister the first one's.
"""

import time
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.registry import RestrictedRegistry
from prometheus_client.samples import Sample
from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import (
    IterationStats,
    MultiModalCacheStats,
    PrefixCacheStats,
    PromptTokenStats,
    SchedulerStats,
)

_PARTS = ("_spec_decoding_cls", "_kv_connector_cls", "_ec_connector_cls", "_perf_metrics_cls")


class BufferedHistogram(Histogram):
    """A histogram that sorts values into its buckets many at a time."""

    _most = 1024

    def _metric_init(self) -> None:
        super()._metric_init()
        self._pending: list[float] = []

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        self.observe_all((amount,))

    def observe_all(self, amounts: Iterable[float]) -> None:
        self._pending += amounts
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


class EngineRegistry(CollectorRegistry):
    """The metrics of one engine. `before_read` is called before anything is read.

    `outputs` counts what the engine has given, each for all the requests of one of its steps; `told_at` is
    when `TellingMetrics` last heard of the engine's own state.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outputs = 0
        self.told_at = 0.0
        self.before_read: Callable[[], None] = lambda: None

    def collect(self) -> Iterable[Metric]:
        self.before_read()
        return super().collect()

    def restricted_registry(self, names: Iterable[str]) -> RestrictedRegistry:
        self.before_read()
        return super().restricted_registry(names)


class EngineMetrics(PrometheusStatLogger):
    """vLLM's metrics, set for many engine steps at a time: one step's would cost as much as several tokens.

    Whoever reads the registry has what is held told first.
    """

    _most = 64
    registry: EngineRegistry

    def __init__(self, vllm_config: VllmConfig, engine_indexes: list[int] | None = None) -> None:
        self._held: list[tuple[SchedulerStats | None, IterationStats]] = []
        self.registry.before_read = self._tell
        super().__init__(vllm_config, engine_indexes)
        # A series for every set of adapters that ever ran at once.
        self.gauge_lora_info = None
        self._step_tokens: dict[int, Any] = self.histogram_iteration_tokens
        self._intervals: dict[int, Any] = self.histogram_inter_token_latency
        # What is not a sum over steps is told by `_tell`.
        self.histogram_iteration_tokens = dict.fromkeys(self._step_tokens, _Ignored())

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        self.registry.outputs += 1
        if iteration_stats is not None and not (mm_cache_stats or engine_idx or _is_rare(scheduler_stats)):
            self._held.append((scheduler_stats, iteration_stats))
            if len(self._held) >= self._most:
                self._tell()
            return
        self._tell()
        if iteration_stats is not None:
            self._step_tokens[engine_idx].observe(_tokens(iteration_stats))
        super().record(scheduler_stats, iteration_stats, mm_cache_stats, engine_idx)

    def _tell(self) -> None:
        held, self._held = self._held, []
        if not held:
            return
        steps = [step for _, step in held]
        self._step_tokens[0].observe_all(map(_tokens, steps))
        self._intervals[0].observe_all(chain.from_iterable(step.inter_token_latencies_iter for step in steps))
        super().record(_latest([stats for stats, _ in held if stats]), _total(steps))


class TellingMetrics(EngineMetrics):
    """For one of several clients of an engine, which tells its state with each step to one of them alone."""

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        if scheduler_stats is not None:
            self.registry.told_at = time.monotonic()
        super().record(scheduler_stats, iteration_stats, mm_cache_stats, engine_idx)


class _Ignored:
    def observe(self, amount: float) -> None:
        """Told elsewhere."""


def _is_rare(stats: SchedulerStats | None) -> bool:
    """Whether a step tells of what adds up in ways of its own."""
    return stats is not None and bool(
        stats.connector_prefix_cache_stats
        or stats.kv_cache_eviction_events
        or stats.spec_decoding_stats
        or stats.kv_connector_stats
        or stats.ec_connector_stats
        or stats.perf_stats
    )


def _latest(steps: list[SchedulerStats]) -> SchedulerStats | None:
    """The state after the last step, with what all of them counted."""
    if not steps:
        return None
    cache = PrefixCacheStats(
        queries=sum(step.prefix_cache_stats.queries for step in steps),
        hits=sum(step.prefix_cache_stats.hits for step in steps),
    )
    return replace(steps[-1], prefix_cache_stats=cache)


def _tokens(step: IterationStats) -> int:
    return step.prompt_token_stats.computed + step.num_generation_tokens


def _total(steps: list[IterationStats]) -> IterationStats:
    """What all steps counted, less the times between tokens."""
    total = IterationStats()
    for step in steps:
        step.inter_token_latencies_iter = []
        _add(total.prompt_token_stats, step.prompt_token_stats)
        _add(total, step)
    return total


def _add(total: IterationStats | PromptTokenStats, more: IterationStats | PromptTokenStats) -> None:
    sums = vars(total)
    for name, value in vars(more).items():
        if isinstance(value, int | list):
            sums[name] += value


def stat_logger(
    registry: EngineRegistry, kind: type[EngineMetrics] = EngineMetrics
) -> type[PrometheusStatLogger]:
    """A stat logger class whose metrics live in `registry`, those that it has its parts make included."""
    kinds = {
        "_gauge_cls": _bound(Gauge, registry),
        "_counter_cls": _bound(Counter, registry),
        "_histogram_cls": _bound(BufferedHistogram, registry),
    }
    parts = {name: _with(getattr(kind, name), kinds) for name in _PARTS}
    return type("RegisteredEngineMetrics", (kind,), {"registry": registry} | kinds | parts)


def _bound(metric: Any, registry: EngineRegistry) -> Any:
    return staticmethod(lambda *args, **kwargs: metric(*args, registry=registry, **kwargs))


def _with(part: type, kinds: dict[str, Any]) -> type:
    """A part that makes its metrics of these kinds. vLLM's own would go into the registry of all."""
    return type(f"Registered{part.__name__}", (part,), {k: v for k, v in kinds.items() if hasattr(part, k)})


def gauge(registry: CollectorRegistry, name: str) -> float:
    """The sum of a gauge over its labels; 0 before the first sample. Only this metric is looked at."""
    found = registry.restricted_registry([name]).collect()
    return sum(sample.value for family in found for sample in family.samples)
