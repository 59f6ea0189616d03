"""Ollama's sampling options in vLLM's terms. What vLLM cannot take is bent here and nowhere else."""

from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output import backend_guidance

from app.core.errors import InvalidRequest
from app.core.request import Constraint, Sampling
from app.engine.base import Run

# vLLM would check a grammar on the event loop; each of ours was checked, in the pool, before it came here.
backend_guidance.validate_guidance_grammar = lambda *_, **__: None

_SMALLEST_TOP_P = 1e-6
_DEFAULTS = Sampling()
_LARGEST_PENALTY = 1e6
_RANDOM_SEED = -1
_SEED_MASK = (1 << 63) - 1


def sampling_params(run: Run, *, windowed: bool, skip_special_tokens: bool) -> SamplingParams:
    """The engine's parameters for `run`.

    `windowed` says that `OllamaLogits` runs in the engine, which honours `typical_p` and applies the
    penalties as Ollama does, over the last `repeat_last_n` tokens of prompt and answer. Without it vLLM's own
    penalties stand in: the repeat penalty covers the whole text, the others the answer, within -2 to 2.

    Raises:
        InvalidRequest: for a value that no engine could honour.
    """
    options = run.sampling
    if options.repeat_penalty <= 0:
        raise InvalidRequest('option "repeat_penalty" must be greater than zero')
    return SamplingParams(
        temperature=min(max(options.temperature, 0.0), 2.0),
        top_p=min(max(options.top_p, _SMALLEST_TOP_P), 1.0),
        top_k=max(options.top_k, 0),
        min_p=min(max(options.min_p, 0.0), 1.0),
        repetition_penalty=1.0 if windowed else options.repeat_penalty,
        presence_penalty=0.0 if windowed else min(max(options.presence_penalty, -2.0), 2.0),
        frequency_penalty=0.0 if windowed else min(max(options.frequency_penalty, -2.0), 2.0),
        seed=None if options.seed == _RANDOM_SEED else options.seed & _SEED_MASK,
        stop=[text for text in options.stop if text],
        stop_token_ids=list(options.stop_token_ids) or None,
        min_tokens=min(options.min_tokens, run.max_tokens),
        ignore_eos=options.ignore_eos,
        logit_bias=dict(options.logit_bias) or None,
        max_tokens=run.max_tokens,
        logprobs=run.logprobs,
        skip_special_tokens=skip_special_tokens,
        structured_outputs=structured_outputs(run.constraint),
        extra_args=_windowed_args(options) if windowed else None,
        output_kind=RequestOutputKind.DELTA,
    )


def structured_outputs(wanted: Constraint | None) -> StructuredOutputsParams | None:
    """The constraint for `format`; the grammar was made, and checked, before the engine was asked."""
    return None if wanted is None else StructuredOutputsParams(grammar=wanted.grammar)


def _windowed_args(options: Sampling) -> dict[str, float] | None:
    """What `OllamaLogits` is to do; None where that is nothing. Penalties stay far from overflow."""
    wanted = {
        "repeat_penalty": min(max(options.repeat_penalty, 1 / _LARGEST_PENALTY), _LARGEST_PENALTY),
        "frequency_penalty": min(max(options.frequency_penalty, -_LARGEST_PENALTY), _LARGEST_PENALTY),
        "presence_penalty": min(max(options.presence_penalty, -_LARGEST_PENALTY), _LARGEST_PENALTY),
        "typical_p": options.typical_p,
    }
    if all(getattr(_DEFAULTS, key) == value for key, value in wanted.items()):
        return None
    return {**wanted, "repeat_last_n": options.repeat_last_n}
