"""vLLM's own spans, through the tracer provider of this process."""

from collections.abc import Mapping
from typing import Any

from vllm.tracing import SpanAttributes, instrument_manual
from vllm.v1.engine import output_processor
from vllm.v1.engine.async_llm import AsyncLLM


def trace_requests(llm: AsyncLLM) -> None:
    """Have vLLM make a span of each request that ends.

    Given the endpoint as an engine argument it would make a provider and an exporter of its own.
    """
    llm.output_processor.tracing_enabled = True
    llm.observability_config.otlp_traces_endpoint = "the tracer provider of this process"
    output_processor.instrument_manual = _instrument  # type: ignore[assignment]


def _instrument(span_name: str, start_time: int, attributes: dict[str, Any], **given: Any) -> None:
    """The span ends when the request did; vLLM would take the time at which it is made, which is later."""
    ended = start_time + int(attributes[SpanAttributes.GEN_AI_LATENCY_E2E] * 1e9)
    instrument_manual(span_name, start_time, ended, attributes, **given)


def headers_for(llm: AsyncLLM, trace: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """What vLLM is to join its span to; it would warn of headers that it has no use for."""
    return trace if llm.output_processor.tracing_enabled else None
