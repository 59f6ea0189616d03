"""Ollama's options that vLLM lacks, as a logits processor: penalties over a window, and `typical_p`.

Runs in the engine's worker. A request that uses none of them costs nothing.
"""

from collections import Counter
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
        last_n = int(wanted.get("repeat_last_n", 64))
        repeat = float(wanted.get("repeat_penalty", 1.0))
        frequency = float(wanted.get("frequency_penalty", 0.0))
        presence = float(wanted.get("presence_penalty", 0.0))
        typical = float(wanted.get("typical_p", 1.0))
        penalizes = last_n != 0 and (repeat != 1.0 or frequency != 0.0 or presence != 0.0)
        selects = 0.0 < typical < 1.0
        if not (penalizes or selects):
            return None

        def process(prompt_ids: list[int], output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
            if penalizes:
                seen = Counter(recent(prompt_ids, output_ids, last_n))
                _penalize(logits, seen, repeat, frequency, presence)
            if selects:
                _keep_typical(logits, typical)
            return logits

        return process


def recent(prompt_ids: list[int], output_ids: list[int], last_n: int) -> list[int]:
    """The last `last_n` tokens of prompt and output; all of them when it is negative."""
    if 0 < last_n <= len(output_ids):
        return output_ids[-last_n:]
    whole = [*(prompt_ids or ()), *output_ids]
    return whole if last_n < 0 else whole[-last_n:]


def _penalize(
    logits: torch.Tensor, seen: Counter[int], repeat: float, frequency: float, presence: float
) -> None:
    """Repetition, frequency and presence penalties of the tokens `seen`; `logits` has shape (vocabulary,).

    `repeat` is the penalty of CTRL (Keskar et al. 2019, https://arxiv.org/abs/1909.05858), but negative
    logits are multiplied by it: divided they would become likelier. `frequency` is subtracted for each
    occurrence, `presence` once.
    """
    if not seen:
        return
    index = torch.tensor(list(seen), device=logits.device)
    counts = torch.tensor(list(seen.values()), device=logits.device)
    values = logits[index]
    values = torch.where(values > 0, values / repeat, values * repeat)
    logits[index] = values - counts * frequency - presence


def _keep_typical(logits: torch.Tensor, mass: float) -> None:
    """Locally typical sampling (Meister et al. 2022, https://arxiv.org/abs/2202.00666); shape (vocabulary,).

    Keeps the fewest tokens whose surprisal -log p is nearest to the entropy H(p) and which have at least
    `mass` of the probability together; the others get -inf.
    """
    log_p = torch.log_softmax(logits.float(), dim=-1)
    p = log_p.exp()
    entropy = -torch.nan_to_num(p * log_p).sum()
    order = torch.argsort((-log_p - entropy).abs())
    kept = int((p[order].cumsum(0) < mass).sum().item()) + 1
    logits[order[kept:]] = float("-inf")
