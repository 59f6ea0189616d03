"""The logits processor against plain arithmetic: penalties over a window, and locally typical sampling."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.sampling_params import SamplingParams

from app.core.request import Sampling
from app.engine.base import Run
from app.engine.vllm.input.logits import OllamaLogits, recent
from app.engine.vllm.input.sampling import sampling_params

pytestmark = pytest.mark.engine

ROW = [2.0, -1.0, 0.5, 0.0, 3.0, -2.5]


@pytest.fixture(scope="module")
def installed() -> OllamaLogits:
    return OllamaLogits(cast(Any, None), torch.device("cpu"), False)


def changed(
    installed: OllamaLogits,
    row: Sequence[float],
    prompt_ids: list[int],
    output_ids: list[int],
    **options: Any,
) -> list[float]:
    """The row after the options of a request went all the way through to it."""
    params = sampling_params(Run(Sampling(**options), 1), windowed=True, skip_special_tokens=True)
    process = installed.new_req_logits_processor(params)
    logits = torch.tensor(row, dtype=torch.float32)
    if process is not None:
        assert process(prompt_ids, output_ids, logits) is logits, "the row is changed in place"
    return logits.tolist()


def penalized(row: Sequence[float], seen: Sequence[int], options: dict[str, float]) -> list[float]:
    """The same in plain numbers."""
    found = list(row)
    for token, count in Counter(seen).items():
        repeat = options.get("repeat_penalty", 1.0)
        found[token] = found[token] / repeat if found[token] > 0 else found[token] * repeat
        found[token] -= count * options.get("frequency_penalty", 0.0) + options.get("presence_penalty", 0.0)
    return found


@pytest.mark.parametrize(
    "extra",
    [
        None,
        {},
        {"repeat_last_n": 5},
        {"repeat_penalty": 1.0, "typical_p": 1.0},
        {"repeat_penalty": 2.0, "presence_penalty": 1.0, "frequency_penalty": 1.0, "repeat_last_n": 0},
        {"typical_p": 0.0},
    ],
)
def test_a_request_that_wants_nothing_costs_nothing(
    installed: OllamaLogits, extra: dict[str, float] | None
) -> None:
    assert installed.new_req_logits_processor(SamplingParams(extra_args=extra)) is None


def test_greedy_answers_are_penalized_too(installed: OllamaLogits) -> None:
    assert not installed.is_argmax_invariant()


@pytest.mark.parametrize(
    ("last_n", "window"),
    [(1, [3]), (2, [2, 3]), (3, [9, 2, 3]), (4, [8, 9, 2, 3]), (5, [7, 8, 9, 2, 3]), (99, [7, 8, 9, 2, 3])],
)
def test_the_window_runs_from_the_answer_into_the_prompt(last_n: int, window: list[int]) -> None:
    assert recent([7, 8, 9], [2, 3], last_n) == window
    assert recent([7, 8, 9], [2, 3], -1) == [7, 8, 9, 2, 3]
    assert recent([], [], last_n) == []


def test_a_repeat_penalty_shrinks_what_is_likely_and_sinks_what_is_not(installed: OllamaLogits) -> None:
    found = changed(installed, ROW, [0, 1], [3], repeat_penalty=2.0)
    assert found == [1.0, -2.0, 0.5, 0.0, 3.0, -2.5]


def test_presence_counts_once_and_frequency_each_time(installed: OllamaLogits) -> None:
    options = {"presence_penalty": 0.5, "frequency_penalty": 0.25}
    assert changed(installed, ROW, [0], [0, 0, 4], **options) == [0.75, -1.0, 0.5, 0.0, 2.25, -2.5]


@pytest.mark.parametrize("last_n", [64, 2, 1, -1, 2**62])
def test_penalties_hold_within_the_window_only(installed: OllamaLogits, last_n: int) -> None:
    prompt_ids, output_ids = [0, 1, 1], [2, 4]
    window = (prompt_ids + output_ids)[-last_n if last_n > 0 else 0 :]
    options = {"repeat_penalty": 1.5, "presence_penalty": 1.0}
    found = changed(installed, ROW, prompt_ids, output_ids, repeat_last_n=last_n, **options)
    assert found == pytest.approx(penalized(ROW, window, options))


TOKENS = st.lists(st.integers(0, 7), max_size=20)


@settings(deadline=None)
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=8, max_size=8),
    TOKENS,
    TOKENS,
    st.integers(-1, 12).filter(bool),
    st.fixed_dictionaries(
        {},
        optional={
            "repeat_penalty": st.floats(0.125, 4, width=32),
            "presence_penalty": st.floats(-8, 8, width=32),
            "frequency_penalty": st.floats(-8, 8, width=32),
        },
    ),
)
def test_penalties_are_what_arithmetic_says(
    row: list[float], prompt_ids: list[int], output_ids: list[int], last_n: int, options: dict[str, float]
) -> None:
    installed = OllamaLogits(cast(Any, None), torch.device("cpu"), False)
    window = (prompt_ids + output_ids)[-last_n if last_n > 0 else 0 :]
    found = changed(installed, row, prompt_ids, output_ids, repeat_last_n=last_n, **options)
    assert found == pytest.approx(penalized(row, window, options), rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("size", [1e38, -1e38, 1e-38])
def test_absurd_penalties_leave_numbers(installed: OllamaLogits, size: float) -> None:
    """A row that holds a NaN could pick a token that a constraint forbids."""
    options = {"repeat_penalty": abs(size), "presence_penalty": size, "frequency_penalty": size}
    forbidden = [*ROW, -math.inf]
    found = changed(installed, forbidden, [0, 6], [0, 1, 4, 6], **options)
    assert found[-1] == -math.inf
    assert all(math.isfinite(value) for value in found[:-1])


def kept(found: Sequence[float]) -> set[int]:
    return {token for token, value in enumerate(found) if value != -math.inf}


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) if p else -math.inf for p in probabilities]


@pytest.mark.parametrize(
    ("probabilities", "typical_p", "tokens"),
    [
        # The entropy is 1.5 nats; the four small ones (1.9) are nearer to it than the likeliest (0.9).
        ((0.4, 0.15, 0.15, 0.15, 0.15), 0.5, {1, 2, 3, 4}),
        ((0.97, 0.01, 0.01, 0.01), 0.5, {0}),
        ((0.25, 0.25, 0.25, 0.25), 0.999, {0, 1, 2, 3}),
        ((0.5, 0.5, 0.0, 0.0), 0.9, {0, 1}),
        ((1.0, 0.0, 0.0, 0.0), 0.9, {0}),
    ],
)
def test_typical_sampling_keeps_what_is_as_surprising_as_expected(
    installed: OllamaLogits, probabilities: tuple[float, ...], typical_p: float, tokens: set[int]
) -> None:
    found = changed(installed, logs(*probabilities), [], [], typical_p=typical_p)
    assert kept(found) == tokens
    for token in tokens:
        assert found[token] == pytest.approx(logs(*probabilities)[token])


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30), st.floats(0.001, 0.999))
def test_typical_sampling_keeps_the_least_that_makes_up_the_mass(row: list[float], mass: float) -> None:
    installed = OllamaLogits(cast(Any, None), torch.device("cpu"), False)
    tokens = kept(changed(installed, row, [], [], typical_p=mass))
    log_p = torch.log_softmax(torch.tensor(row, dtype=torch.float64), -1)
    entropy = -(log_p.exp() * log_p).sum()
    distance = (-log_p - entropy).abs().tolist()
    share = log_p.exp().tolist()
    assert tokens
    assert sum(share[token] for token in tokens) >= mass - 1e-5
    farthest = max(tokens, key=distance.__getitem__)
    assert all(
        distance[token] >= distance[farthest] - 1e-4 for token in range(len(row)) if token not in tokens
    )
    assert sum(share[token] for token in tokens if token != farthest) <= mass + 1e-5


def test_penalties_come_before_the_typical_choice(installed: OllamaLogits) -> None:
    row = logs(0.97, 0.01, 0.01, 0.01)
    assert kept(changed(installed, row, [0], [], typical_p=0.5)) == {0}
    sunk = changed(installed, row, [0], [], typical_p=0.5, presence_penalty=50.0)
    assert 0 not in kept(sunk)
