"""What an answer took: `usage`, and `timings` as Ollama has them since 0.35 (docs/reference 13.1)."""

from collections.abc import Sequence
from typing import Any

from app.core.events import Done

_NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def usage(ends: Sequence[Done], per_prompt: int = 1) -> dict[str, Any]:
    """Of all answers; every `per_prompt` of them share a prompt, which counts once."""
    if not ends:
        return dict(_NO_USAGE)
    firsts = ends[::per_prompt]
    prompt = sum(end.prompt_tokens for end in firsts)
    output = sum(end.output_tokens for end in ends)
    known = [end.cached_tokens for end in firsts if end.cached_tokens is not None]
    cached = {"prompt_tokens_details": {"cached_tokens": sum(known)}} if known else {}
    reasoned = [end.reasoning_tokens for end in ends if end.reasoning_tokens is not None]
    told = {"completion_tokens_details": {"reasoning_tokens": sum(reasoned)}} if reasoned else {}
    return {
        "prompt_tokens": prompt,
        **cached,
        "completion_tokens": output,
        **told,
        "total_tokens": prompt + output,
    }


def timings(ends: Sequence[Done]) -> dict[str, Any]:
    """The member of a document that has them; none where nothing was measured, or several answers overlap."""
    if len(ends) != 1 or not (ends[0].timings.prompt_eval_ns or ends[0].timings.eval_ns):
        return {}
    end = ends[0]
    return {
        "timings": {
            **_part("prompt", end.prompt_tokens, end.timings.prompt_eval_ns),
            **_part("predicted", end.output_tokens, end.timings.eval_ns),
        }
    }


def _part(name: str, count: int, took_ns: int) -> dict[str, Any]:
    took_ms = took_ns // 1_000_000
    return {
        f"{name}_n": count,
        f"{name}_ms": took_ms,
        f"{name}_per_token_ms": round(took_ms / count, 3) if count else 0,
        f"{name}_per_second": round(count / took_ms * 1000, 3) if took_ms else 0,
    }
