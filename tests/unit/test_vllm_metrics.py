"""vLLM's metrics told for many steps at once say what they would say told step by step."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.metrics.stats import (
    IterationStats,
    MultiModalCacheStats,
    PrefixCacheStats,
    SchedulerStats,
)
from vllm.v1.spec_decode.metrics import SpecDecodingStats

from app.engine.vllm.stream.metrics import EngineRegistry, gauge, stat_logger
from harness.models.build import build

pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def config() -> Any:
    args = AsyncEngineArgs(model=str(build("llama")), dtype="float32", kv_cache_memory_bytes=64 << 20)
    return args.create_engine_config()


def told(
    steps: Iterable[tuple[SchedulerStats, IterationStats]], after: Callable[[EngineRegistry], object]
) -> Any:
    """All samples of a registry after these steps; `after` is called behind each."""
    registry = EngineRegistry()
    logger = stat_logger(registry)(config(), [0])
    for scheduler, step in steps:
        logger.record(scheduler, step)
        after(registry)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_what_speculation_counts_is_told_with_the_rest_of_its_engine() -> None:
    """It went into the registry of the whole process, from which the next engine took it away."""
    given = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 4}
    args = AsyncEngineArgs(model=str(build("llama")), dtype="float32", kv_cache_memory_bytes=64 << 20)
    args.speculative_config = given
    registries = EngineRegistry(), EngineRegistry()
    first, second = (stat_logger(each)(args.create_engine_config(), [0]) for each in registries)
    for logger, drafts in ((first, 3), (second, 5)):
        counted = SpecDecodingStats(2, num_drafts=drafts, num_draft_tokens=2 * drafts, num_accepted_tokens=1)
        counted.num_accepted_tokens_per_pos = [1, 0]
        logger.record(SchedulerStats(spec_decoding_stats=counted), IterationStats())
    for registry, drafts in zip(registries, (3, 5), strict=True):
        found = {sample.name: sample.value for family in registry.collect() for sample in family.samples}
        assert found["vllm:spec_decode_num_drafts_total"] == drafts
        assert found["vllm:spec_decode_num_accepted_tokens_total"] == 1


def steps(count: int) -> list[tuple[SchedulerStats, IterationStats]]:
    made: list[tuple[SchedulerStats, IterationStats]] = []
    for number in range(count):
        step = IterationStats()
        step.num_generation_tokens = number % 5
        step.prompt_token_stats.computed = number * 3
        step.prompt_token_stats.total = number * 4
        step.prompt_token_stats.cached_tokens = number
        step.time_to_first_tokens_iter = [0.01 * number]
        step.inter_token_latencies_iter = [0.001 * number] * (number % 4)
        cache_stats = PrefixCacheStats(requests=1, queries=number * 4, hits=number)
        made.append((SchedulerStats(num_running_reqs=number, prefix_cache_stats=cache_stats), step))
    return made


def test_held_steps_add_up_to_the_same() -> None:
    together = told(steps(100), lambda _: None)
    one_by_one = told(steps(100), lambda registry: gauge(registry, "vllm:num_requests_running"))
    assert together == one_by_one
    labels = (("engine", "0"), ("model_name", str(config().model_config.served_model_name)))
    assert together["vllm:num_requests_running", labels] == 99
    assert together["vllm:generation_tokens_total", labels] == sum(n % 5 for n in range(100))
    assert together["vllm:iteration_tokens_total_count", labels] == 100
    assert together["vllm:inter_token_latency_seconds_count", labels] == sum(n % 4 for n in range(100))
    assert together["vllm:prefix_cache_hits_total", labels] == sum(range(100))


def test_a_reader_sees_the_latest_step_at_once() -> None:
    registry = EngineRegistry()
    logger = stat_logger(registry)(config(), [0])
    for running in (3, 1):
        logger.record(SchedulerStats(num_running_reqs=running), IterationStats())
        assert gauge(registry, "vllm:num_requests_running") == running


def test_what_adds_up_in_ways_of_its_own_is_told_at_once_and_in_order() -> None:
    registry = EngineRegistry()
    logger = stat_logger(registry)(config(), [0])
    logger.record(SchedulerStats(num_running_reqs=2), IterationStats())
    logger.record(SchedulerStats(num_running_reqs=1), None, MultiModalCacheStats(queries=4, hits=3))
    logger.record(SchedulerStats(num_running_reqs=7), None)
    assert gauge(registry, "vllm:num_requests_running") == 7
    assert (
        registry.get_sample_value(
            "vllm:mm_cache_hits_total",
            {"engine": "0", "model_name": str(config().model_config.served_model_name)},
        )
        == 3
    )
