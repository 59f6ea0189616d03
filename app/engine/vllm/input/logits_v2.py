"""`OllamaLogits` for Model Runner V2, which runs on GPUs: one pass over the rows of a batch that ask for it.

In torch operations alone, so that it is proven on CPU tensors, where there is no Triton.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor.interface import (
    LogitsContext,
    LogitsProcessor,
    LogitsProcRequestState,
)

_ROWS = 32
"""Rows worked on at once: a count for each word of the vocabulary is kept for each of them."""


class _Option(NamedTuple):
    name: str
    default: float


_OPTIONS = (
    _Option("repeat_last_n", 64),
    _Option("repeat_penalty", 1),
    _Option("frequency_penalty", 0),
    _Option("presence_penalty", 0),
    _Option("typical_p", 1),
)
_LAST_N, _REPEAT, _FREQUENCY, _PRESENCE, _TYPICAL = range(len(_OPTIONS))


class GpuOllamaLogits(LogitsProcessor):
    """The options of each request slot are rows of one array on the host, of shape (slots, 5).

    What is to be done is known there, so that a batch that asks for nothing costs a look at it and no wait
    for the device.
    """

    def __init__(self, vllm_config: Any, req_states: LogitsProcRequestState) -> None:
        self._states = req_states
        defaults = np.array([each.default for each in _OPTIONS], dtype=np.float64)
        self._options = np.tile(defaults, (req_states.max_num_reqs, 1))
        self._penalizes = np.zeros(req_states.max_num_reqs, dtype=bool)
        self._selects = np.zeros(req_states.max_num_reqs, dtype=bool)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        given: dict[str, Any] = sampling_params.extra_args or {}
        options = [float(given.get(each.name, each.default)) for each in _OPTIONS]
        self._options[req_idx] = options
        neutral = options[_REPEAT] == 1 and not options[_FREQUENCY] and not options[_PRESENCE]
        self._penalizes[req_idx] = options[_LAST_N] != 0 and not neutral
        self._selects[req_idx] = 0 < options[_TYPICAL] < 1
        return bool(self._penalizes[req_idx] or self._selects[req_idx])

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """Changes `logits`, of shape (rows, vocabulary), in place."""
        rows, slots = _rows(ctx, self._penalizes | self._selects)
        for first in range(0, len(rows), _ROWS):
            some, of = rows[first : first + _ROWS], slots[first : first + _ROWS]
            for wanted, work in ((self._penalizes, self._penalize), (self._selects, self._keep_typical)):
                if (chosen := wanted[of]).any():
                    work(logits, some[chosen], of[chosen], ctx)
        return logits

    def _penalize(self, logits: torch.Tensor, rows: Any, slots: Any, ctx: LogitsContext) -> None:
        """As `logits.recent` and the penalties there, by counts of the tokens in each row's window."""
        device = logits.device
        ids, inside = self._windows(rows, slots, ctx)
        index = torch.from_numpy(rows).to(device)
        options = torch.from_numpy(self._options[slots]).to(device, torch.float32)[:, :, None]
        counts = torch.zeros((len(rows), logits.shape[1]), device=device)
        counts.scatter_add_(1, ids, inside.float())
        chosen = logits[index]
        values, seen = chosen.gather(1, ids), counts.gather(1, ids)
        repeat = options[:, _REPEAT]
        changed = torch.where(values > 0, values / repeat, values * repeat)
        changed = changed - seen * options[:, _FREQUENCY] - options[:, _PRESENCE]
        # Where the window is shorter than the others', its filling is a token that may not be in it.
        chosen.scatter_(1, ids, torch.where(seen > 0, changed, values))
        logits[index] = chosen

    def _windows(self, rows: Any, slots: Any, ctx: LogitsContext) -> tuple[torch.Tensor, torch.Tensor]:
        """The last tokens that each row can see, and which of these are within its own window; both of shape
        (rows, widest window). Drafts of this step are seen too: they are in `input_ids` alone."""
        device = ctx.input_ids.device
        index = torch.from_numpy(rows).to(device)
        last_n = torch.from_numpy(self._options[slots, _LAST_N].astype(np.int64)).to(device)
        lengths = (ctx.pos[index] + 1).long()
        widths = torch.where(last_n < 0, lengths, torch.minimum(last_n, lengths))
        widest = int(self._widest(rows, slots, ctx))
        places = lengths[:, None] - widest + torch.arange(widest, device=device)
        inside = places >= (lengths - widths)[:, None]
        places = places.clamp(min=0)
        history = self._states.all_token_ids.gpu
        ids = history[torch.from_numpy(slots).to(device)[:, None], places]
        drafts = places - (lengths - 1 - ctx.expanded_local_pos[index])[:, None]
        row_of = (index - ctx.expanded_local_pos[index])[:, None] + drafts
        fed = ctx.input_ids[row_of.clamp(min=0, max=len(ctx.input_ids) - 1).long()]
        return torch.where(drafts > 0, fed, ids).long(), inside

    def _widest(self, rows: Any, slots: Any, ctx: LogitsContext) -> int:
        """By what the host knows of the lengths, so that nothing waits for the device."""
        bound = dict(zip(ctx.idx_mapping_np.tolist(), ctx.seq_lens_upper_bound_np.tolist(), strict=True))
        wanted = self._options[slots, _LAST_N]
        return int(
            max(bound[slot] if n < 0 else min(n, bound[slot]) for slot, n in zip(slots, wanted, strict=True))
        )

    def _keep_typical(self, logits: torch.Tensor, rows: Any, slots: Any, ctx: LogitsContext) -> None:
        """As `logits._keep_typical`, for several rows."""
        index = torch.from_numpy(rows).to(logits.device)
        mass = torch.from_numpy(self._options[slots, _TYPICAL]).to(logits.device, torch.float32)[:, None]
        chosen = logits[index]
        log_p = torch.log_softmax(chosen.float(), dim=-1)
        p = log_p.exp()
        entropy = -torch.nan_to_num(p * log_p).sum(dim=-1, keepdim=True)
        order = torch.argsort((-log_p - entropy).abs(), dim=-1)
        kept = (p.gather(1, order).cumsum(1) < mass).sum(dim=-1, keepdim=True) + 1
        dropped = torch.arange(chosen.shape[1], device=logits.device)[None, :] >= kept
        chosen.scatter_(1, order, chosen.gather(1, order).masked_fill(dropped, float("-inf")))
        logits[index] = chosen


def _rows(ctx: LogitsContext, wanted: Any) -> tuple[Any, Any]:
    """The rows of requests that are `wanted` by slot, and the slot of each. A request has several rows only
    where it has drafts, and then the device is asked for them."""
    if not wanted[ctx.idx_mapping_np].any():
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    if len(ctx.expanded_idx_mapping) == len(ctx.idx_mapping_np):
        slots = ctx.idx_mapping_np
    else:
        slots = ctx.expanded_idx_mapping.cpu().numpy()
    rows = np.flatnonzero(wanted[slots])
    return rows, slots[rows]
