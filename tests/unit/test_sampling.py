"""Ollama's sampling options as vLLM's: what changes, what is bent, what is refused."""

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.sampling_params import RequestOutputKind, SamplingParams

from app.constrain.grammar import ANY_OBJECT
from app.core.errors import InvalidRequest
from app.core.request import Constraint, Sampling
from app.engine.base import Run
from app.engine.vllm.input.sampling import sampling_params, structured_outputs
from tests.unit.resolved import resolve

pytestmark = pytest.mark.engine


def params(*, windowed: bool = True, **options: Any) -> SamplingParams:
    return sampling_params(Run(Sampling(**options), 100), windowed=windowed, skip_special_tokens=True)


def test_the_defaults_are_those_of_ollama_and_ask_for_nothing_special() -> None:
    found = params()
    assert (found.temperature, found.top_k, found.top_p, found.min_p) == (0.8, 40, 0.9, 0.0)
    assert (found.repetition_penalty, found.presence_penalty, found.frequency_penalty) == (1.0, 0.0, 0.0)
    assert (found.seed, found.stop, found.max_tokens) == (None, [], 100)
    assert (found.extra_args, found.structured_outputs, found.logprobs) == (None, None, None)
    assert found.output_kind is RequestOutputKind.DELTA


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"temperature": -1.0}, {"temperature": 0.0}),
        ({"temperature": 9.0}, {"temperature": 2.0}),
        ({"top_k": 0}, {"top_k": 0}),
        ({"top_k": -7}, {"top_k": 0}),
        ({"top_p": 0.0}, {"top_p": 1e-6}),
        ({"top_p": -1.0}, {"top_p": 1e-6}),
        ({"top_p": 1.5}, {"top_p": 1.0}),
        ({"min_p": -0.5}, {"min_p": 0.0}),
        ({"min_p": 2.0}, {"min_p": 1.0}),
        ({"stop": ("a", "", "b")}, {"stop": ["a", "b"]}),
        ({"min_tokens": 500}, {"min_tokens": 100}),
        ({"min_tokens": 5, "ignore_eos": True}, {"min_tokens": 5, "ignore_eos": True}),
        ({"stop_token_ids": (7, 8)}, {"stop_token_ids": [7, 8]}),
        ({"logit_bias": {3: -100.0}}, {"logit_bias": {3: -100.0}}),
    ],
)
def test_what_vllm_does_not_take_becomes_the_nearest_it_does(
    sent: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = params(**sent)
    assert {key: getattr(found, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("sent", "used"),
    [(-1, None), (0, 0), (42, 42), (-2, 2**63 - 2), (2**63 - 1, 2**63 - 1), (-(2**63) + 1, 1)],
)
def test_only_minus_one_is_a_random_seed(sent: int, used: int | None) -> None:
    assert params(seed=sent).seed == used


@pytest.mark.parametrize(
    "options",
    [{"repeat_penalty": 1.3}, {"presence_penalty": 5.0}, {"frequency_penalty": -5.0}, {"typical_p": 0.5}],
)
def test_the_logits_processor_does_what_vllm_cannot(options: dict[str, Any]) -> None:
    found = params(repeat_last_n=7, **options)
    assert (
        found.extra_args
        == {
            "repeat_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "typical_p": 1.0,
            "repeat_last_n": 7,
        }
        | options
    )
    assert (found.repetition_penalty, found.presence_penalty, found.frequency_penalty) == (1.0, 0.0, 0.0)


def test_a_window_without_a_penalty_is_nothing_to_do() -> None:
    assert params(repeat_last_n=0).extra_args is None


def test_without_the_processor_the_penalties_of_vllm_stand_in() -> None:
    found = params(windowed=False, repeat_penalty=1.3, presence_penalty=5.0, frequency_penalty=-5.0)
    assert (found.repetition_penalty, found.presence_penalty, found.frequency_penalty) == (1.3, 2.0, -2.0)
    assert found.extra_args is None


@pytest.mark.parametrize("penalty", [0.0, -1.0])
@pytest.mark.parametrize("windowed", [True, False])
def test_a_penalty_to_divide_by_that_is_not_positive(penalty: float, windowed: bool) -> None:
    with pytest.raises(InvalidRequest, match=r'^option "repeat_penalty" must be greater than zero$'):
        params(windowed=windowed, repeat_penalty=penalty)


@pytest.mark.point(92)
def test_a_format_becomes_a_constraint() -> None:
    assert structured_outputs(None) is None
    constraint = structured_outputs(Constraint(grammar=ANY_OBJECT))
    assert constraint is not None
    assert (constraint.grammar, constraint.json) == (ANY_OBJECT, None)


FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
INTEGER = st.integers(-(2**63) + 1, 2**63 - 1)
SAMPLING = {
    field.name: INTEGER if field.type is int else FLOAT
    for field in dataclasses.fields(Sampling)
    if field.type in (int, float) and field.name != "repeat_penalty"
}


@pytest.mark.row("A5")
@settings(deadline=None, max_examples=300)
@given(
    st.fixed_dictionaries({}, optional={**SAMPLING, "repeat_penalty": FLOAT.filter(lambda value: value > 0)}),
    st.booleans(),
)
def test_whatever_ollama_takes_vllm_takes_and_can_send_to_its_engine(
    options: dict[str, Any], windowed: bool
) -> None:
    """A request that cannot be sent would hold its place in the engine for ever."""
    found = sampling_params(
        Run(resolve(options), 10, logprobs=20), windowed=windowed, skip_special_tokens=False
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=SamplingParams) == found
