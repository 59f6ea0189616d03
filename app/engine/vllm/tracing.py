"""vLLM's own spans, through the tracer provider of this process."""

from collections.abc import Mapping

from vllm.v1.engine.async_llm import AsyncLLM


def trace_requests(llm: AsyncLLM) -> None:
    """Have vLLM make a span of each request that ends.

    Given the endpoint as an engine argument it would make a provider and an exporter of its own.
    """
    llm.output_processor.tracing_enabled = True
    llm.observability_config.otlp_traces_endpoint = "the tracer provider of this process"


def headers_for(llm: AsyncLLM, trace: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """What vLLM is to join its span to; it would warn of headers that it has no use for."""
    return trace if llm.output_processor.tracing_enabled else None
