"""Tokens and times of a request and how it ended, as vLLM's outputs tell them."""

from typing import Any

from vllm.outputs import RequestOutput

from app.core.errors import ConstraintFailed, EngineDied, EngineFailed
from app.core.events import Delta, Timings, TokenLogprob, Usage
from app.engine.vllm.stream.logprobs import TokenBytes


def account(usage: Usage, output: RequestOutput) -> None:
    """What the request has come to; vLLM keeps count on each output, so its last one tells."""
    usage.prompt_tokens = len(output.prompt_token_ids or ())
    usage.cached_tokens = output.num_cached_tokens or 0
    if (stats := output.metrics) is None:
        return
    usage.output_tokens = stats.num_generation_tokens
    if stats.first_token_latency:
        # vLLM's arrival may be that of the chat that was rendered, well before the request.
        usage.first_token_at_ns = _ns(stats.arrival_time + stats.first_token_latency)
    usage.queue_ns = _ns(stats.scheduled_ts - stats.queued_ts)
    usage.prefill_ns = _ns(stats.first_token_ts - stats.scheduled_ts)
    usage.decode_ns = _ns(stats.last_token_ts - stats.first_token_ts)


def to_delta(output: RequestOutput, vocabulary: TokenBytes, *, constrained: bool) -> Delta:
    """What vLLM made in full, as a delta.

    Raises:
        EngineFailed: the engine ended the reply before its end.
    """
    piece = output.outputs[0]
    logprobs = vocabulary.logprobs(piece) if piece.logprobs else None
    if output.finished:
        return last_delta(output, logprobs, constrained=constrained)
    token_ids: Any = piece.token_ids
    return Delta(
        piece.text,
        token_ids,
        logprobs,
        prompt_tokens=len(output.prompt_token_ids or ()),
        cached_tokens=output.num_cached_tokens,
    )


def last_delta(
    output: RequestOutput, logprobs: list[TokenLogprob] | None, *, constrained: bool = False
) -> Delta:
    """The delta that ends a reply, with what the reply came to.

    Raises:
        EngineFailed: the engine ended it before its end.
    """
    piece = output.outputs[0]
    if piece.finish_reason == "abort":
        raise EngineDied
    if piece.finish_reason == "error":
        if constrained:
            raise ConstraintFailed
        raise EngineFailed("an error was encountered while running the model")
    token_ids: Any = piece.token_ids
    delta = Delta(
        piece.text,
        token_ids,
        logprobs,
        finish="length" if piece.finish_reason == "length" else "stop",
        prompt_tokens=len(output.prompt_token_ids or ()),
        output_tokens=len(token_ids),
        timings=Timings(),
        cached_tokens=output.num_cached_tokens,
        matched_stop=piece.stop_reason if isinstance(piece.stop_reason, str) else "",
    )
    if (stats := output.metrics) is not None:
        delta.output_tokens = stats.num_generation_tokens
        delta.timings = Timings(
            prompt_eval_ns=_ns(stats.first_token_ts - stats.scheduled_ts),
            eval_ns=_ns(stats.last_token_ts - stats.first_token_ts),
        )
    return delta


def _ns(seconds: float) -> int:
    return max(int(seconds * 1e9), 1)
