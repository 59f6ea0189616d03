"""The two options of Ollama that vLLM lacks, as a logits processor: `repeat_last_n` and `typical_p`.

Runs in the engine's worker. A request that uses neither costs nothing.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

Process: TypeAlias = Callable[[list[int], list[int], torch.Tensor], torch.Tensor]
"""Takes prompt token ids, output token ids and one row of logits, which it changes and returns."""


class OllamaLogits(AdapterLogitsProcessor):
    """Installed per engine; makes one processor for each request that asks for one."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Process | None:
        wanted: dict[str, Any] = params.extra_args or {}
        penalty = float(wanted.get("repeat_penalty", 1.0))
        typical = float(wanted.get("typical_p", 1.0))
        if penalty == 1.0 and not 0.0 < typical < 1.0:
            return None
        last_n = int(wanted.get("repeat_last_n", 64))

        def process(prompt_ids: list[int], output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
            if penalty != 1.0 and last_n != 0:
                _penalize(logits, recent(prompt_ids, output_ids, last_n), penalty)
            if 0.0 < typical < 1.0:
                _keep_typical(logits, typical)
            return logits

        return process


def recent(prompt_ids: list[int], output_ids: list[int], last_n: int) -> list[int]:
    """The distinct tokens of the last `last_n` of prompt and output; all of them when it is negative."""
    if 0 < last_n <= len(output_ids):
        window = output_ids[-last_n:]
    else:
        window = [*(prompt_ids or ()), *output_ids]
        window = window if last_n < 0 else window[-last_n:]
    return sorted(set(window))


def _penalize(logits: torch.Tensor, token_ids: list[int], penalty: float) -> None:
    if not token_ids:
        return
    index = torch.tensor(token_ids, device=logits.device)
    seen = logits[index]
    logits[index] = torch.where(seen > 0, seen / penalty, seen * penalty)


def _keep_typical(logits: torch.Tensor, mass: float) -> None:
    """Locally typical sampling: keep the tokens whose surprise is nearest to the entropy, up to `mass`."""
    log_p = torch.log_softmax(logits.float(), dim=-1)
    p = log_p.exp()
    entropy = -torch.nan_to_num(p * log_p).sum()
    order = torch.argsort((-log_p - entropy).abs())
    kept = int((p[order].cumsum(0) < mass).sum().item()) + 1
    logits[order[kept:]] = float("-inf")
