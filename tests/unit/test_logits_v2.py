"""The processor of Model Runner V2 beside the one of V1, on CPU tensors: the same logits, the same tokens."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext

from app.engine.vllm.input.logits import OllamaLogits
from app.engine.vllm.input.logits_v2 import GpuOllamaLogits

VOCABULARY, LONGEST, SLOTS = 50, 200, 40


def of_v1(options: dict[str, float], prompt: list[int], output: list[int], row: torch.Tensor) -> torch.Tensor:
    processor = OllamaLogits.__new__(OllamaLogits)
    process = processor.new_req_logits_processor(SamplingParams(extra_args=options or None))
    return row if process is None else process(prompt, output, row)


def some_options(chance: random.Random) -> dict[str, float]:
    every = {
        "repeat_last_n": chance.choice([-1, 0, 1, 5, 64, 300]),
        "repeat_penalty": chance.choice([1.0, 1.3, 0.7]),
        "frequency_penalty": chance.choice([0.0, 0.8, -0.4]),
        "presence_penalty": chance.choice([0.0, 0.5]),
        "typical_p": chance.choice([1.0, 0.9, 0.3, 0.0]),
    }
    return {} if chance.random() < 0.3 else {key: every[key] for key in every if chance.random() < 0.8}


class Batch:
    """Requests in slots of a runner, and one step of theirs; `drafts` are speculated tokens by request."""

    def __init__(self, requests: list[tuple[dict[str, float], list[int], list[int]]], seed: int) -> None:
        chance = random.Random(seed)
        self.requests = requests
        self.slots = chance.sample(range(SLOTS), len(requests))
        self.drafts: list[list[int]] = [[] for _ in requests]
        self.history = torch.randint(0, VOCABULARY, (SLOTS, LONGEST), dtype=torch.int32)
        states: Any = SimpleNamespace(
            max_num_reqs=SLOTS, all_token_ids=SimpleNamespace(gpu=self.history), device=torch.device("cpu")
        )
        self.processor = GpuOllamaLogits(None, states)
        for slot, (options, prompt, output) in zip(self.slots, requests, strict=True):
            whole = torch.tensor([*prompt, *output], dtype=torch.int32)
            self.history[slot, : len(whole)] = whole
            self.processor.add_request(slot, SamplingParams(extra_args=options or None))

    def context(self) -> LogitsContext:
        slots, local, fed, pos, bounds = [], [], [], [], []
        for slot, (_, prompt, output), drafts in zip(self.slots, self.requests, self.drafts, strict=True):
            length = len(prompt) + len(output)
            bounds.append(length + len(drafts))
            for at, token in enumerate([(prompt + output)[-1], *drafts]):
                slots.append(slot)
                local.append(at)
                fed.append(token)
                pos.append(length - 1 + at)
        return LogitsContext(
            expanded_idx_mapping=torch.tensor(slots, dtype=torch.int32),
            idx_mapping=torch.tensor(self.slots, dtype=torch.int32),
            idx_mapping_np=np.array(self.slots, dtype=np.int32),
            expanded_local_pos=torch.tensor(local, dtype=torch.int32),
            input_ids=torch.tensor(fed, dtype=torch.int32),
            pos=torch.tensor(pos, dtype=torch.int64),
            seq_lens_upper_bound_np=np.array(bounds, dtype=np.int32),
        )

    def expected(self, logits: torch.Tensor) -> torch.Tensor:
        """What V1's processor makes of each row."""
        rows = iter(logits.clone())
        made: list[torch.Tensor] = []
        for (options, prompt, output), drafts in zip(self.requests, self.drafts, strict=True):
            made += [
                of_v1(options, prompt, output + drafts[:count], next(rows))
                for count in range(len(drafts) + 1)
            ]
        return torch.stack(made)


def tokens(chance: random.Random, least: int, most: int) -> list[int]:
    return [chance.randrange(VOCABULARY) for _ in range(chance.randint(least, most))]


def a_batch(seed: int, *, drafts: bool = False) -> Batch:
    chance = random.Random(seed)
    batch = Batch(
        [
            (some_options(chance), tokens(chance, 1, 80), tokens(chance, 0, 80))
            for _ in range(chance.randint(1, SLOTS))
        ],
        seed,
    )
    if drafts:
        batch.drafts = [tokens(chance, 0, 4) for _ in batch.requests]
    return batch


@pytest.mark.parametrize("drafts", [False, True])
def test_both_runners_choose_the_same_tokens(drafts: bool) -> None:
    for seed in range(60):
        torch.manual_seed(seed)
        batch = a_batch(seed, drafts=drafts)
        ctx = batch.context()
        logits = torch.randn(len(ctx.input_ids), VOCABULARY) * 4
        expected = batch.expected(logits)
        found = batch.processor.apply(logits.clone(), ctx)
        assert torch.equal(found.isinf(), expected.isinf()), seed
        torch.testing.assert_close(found, expected)
        assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_a_slot_forgets_who_had_it() -> None:
    batch = Batch([({"repeat_penalty": 2.0}, [1, 2, 3], [])], 0)
    (slot,) = batch.slots
    assert batch.processor.add_request(slot, SamplingParams()) is False
    logits = torch.ones(1, VOCABULARY)
    assert torch.equal(batch.processor.apply(logits.clone(), batch.context()), logits)


def test_rows_that_ask_for_nothing_are_left_alone() -> None:
    batch = Batch([({}, [1, 2], []), ({"presence_penalty": 1.0}, [3], []), ({}, [4], [])], 1)
    found = batch.processor.apply(torch.zeros(3, VOCABULARY), batch.context())
    assert found[[0, 2]].abs().sum() == 0
    assert found[1, 3] == -1
    assert found[1].abs().sum() == 1


@pytest.mark.parametrize(
    ("options", "modifies"),
    [
        ({}, False),
        ({"repeat_penalty": 1.1}, True),
        ({"repeat_penalty": 1.1, "repeat_last_n": 0}, False),
        ({"typical_p": 0.5}, True),
        ({"typical_p": 1.0}, False),
        ({"typical_p": 0.0}, False),
    ],
)
def test_the_runner_is_told_whether_there_is_work(options: dict[str, float], modifies: bool) -> None:
    batch = Batch([({}, [1], [])], 2)
    assert batch.processor.add_request(0, SamplingParams(extra_args=options or None)) is modifies
