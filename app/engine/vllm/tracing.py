"""vLLM's own spans, through the tracer provider of this process."""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from vllm.tracing import instrument_manual
from vllm.v1.engine import output_processor
from vllm.v1.engine.async_llm import AsyncLLM

_LATER_S = 0.05


def trace_requests(llm: AsyncLLM) -> None:
    """Have vLLM make a span of each request that ends.

    Given the endpoint as an engine argument it would make a provider and an exporter of its own.
    """
    llm.output_processor.tracing_enabled = True
    llm.observability_config.otlp_traces_endpoint = "the tracer provider of this process"
    output_processor.instrument_manual = _instrument_later  # type: ignore[assignment]


def _instrument_later(span_name: str, start_time: int, **given: Any) -> None:
    """Put the making of the span off, out of the way of the tokens; it still ends now."""
    make = partial(instrument_manual, span_name, start_time, end_time=time.time_ns(), **given)
    asyncio.get_running_loop().call_later(_LATER_S, make)


def headers_for(llm: AsyncLLM, trace: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """What vLLM is to join its span to; it would warn of headers that it has no use for."""
    return trace if llm.output_processor.tracing_enabled else None
