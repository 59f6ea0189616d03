"""Ollama's options: types, layers, and which of them change something here."""

import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.format import read_format
from app.catalogue.parameters import OPTIONS
from app.core.errors import InvalidRequest
from app.core.request import Constraint, Sampling
from app.golang.quote import quoted
from tests.unit.resolved import resolve

OF_TYPE = {
    type_: [key for key, option in OPTIONS.items() if option.type == type_]
    for type_ in ("integer", "float32")
}


def refused(text: str) -> Any:
    return pytest.raises(InvalidRequest, match=f"^{re.escape(text)}$")


def test_the_table_is_the_one_of_the_contract() -> None:
    runner = {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"}
    lengths = {"num_keep", "num_predict", "repeat_last_n", "stop", "seed"}
    sampling = {"top_k", "top_p", "min_p", "typical_p", "temperature"}
    penalties = {"repeat_penalty", "presence_penalty", "frequency_penalty"}
    assert set(OPTIONS) == runner | lengths | sampling | penalties


def test_an_option_is_honoured_or_says_why_not() -> None:
    honoured = {key for key, option in OPTIONS.items() if not option.no_op}
    of_others = {"logit_bias", "min_tokens", "ignore_eos", "stop_token_ids"}  # of OpenAI's API and vLLM's
    assert honoured == {field.name for field in dataclasses.fields(Sampling)} - of_others


@pytest.mark.point(118)
def test_the_request_beats_the_model_which_beats_the_default() -> None:
    model = {"temperature": 0.5, "top_k": 7, "stop": ["a"]}
    found = resolve(model, {"temperature": 0.1, "stop": ["b", "c"]})
    assert (found.temperature, found.top_k, found.stop, found.top_p) == (0.1, 7, ("b", "c"), 0.9)
    assert resolve(model, {"stop": []}).stop == ()
    assert resolve() == resolve({}, {}) == Sampling()


@pytest.mark.point(114)
def test_null_leaves_the_value_of_the_layer_below() -> None:
    assert resolve({"temperature": 0.5}, {"temperature": None}).temperature == 0.5
    assert resolve({"temperature": None}) == Sampling()


@pytest.mark.point(113)
def test_unknown_keys_are_ignored() -> None:
    assert resolve({"bogus": {"x": 1}, "mirostat": 2, "TEMPERATURE": "hot", "tfs_z": []}) == Sampling()


@pytest.mark.point(108, 109, 110, 111, 112)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": "x"}, 'option "temperature" must be of type float32'),
        ({"temperature": True}, 'option "temperature" must be of type float32'),
        ({"num_ctx": "x"}, 'option "num_ctx" must be of type integer'),
        ({"num_ctx": False}, 'option "num_ctx" must be of type integer'),
        ({"num_gpu": "all"}, 'option "num_gpu" must be of type integer'),
        ({"main_gpu": []}, 'option "main_gpu" must be of type integer'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
        ({"stop": ["a", None]}, 'option "stop" must be of an array of strings'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(options: dict[str, Any], text: str) -> None:
    with refused(text):
        resolve({}, options)
    with refused(text):
        resolve(options, {})


@pytest.mark.point(115)
@pytest.mark.parametrize(("sent", "meant"), [(3.9, 3), (-3.9, -3), (0.5, 0), (1e3, 1000), (7, 7)])
def test_fractions_of_integers_are_cut_off(sent: float, meant: int) -> None:
    found = resolve({"top_k": sent}).top_k
    assert (found, type(found)) == (meant, int)


@pytest.mark.parametrize(("sent", "meant"), [(2, 4), (0, 4), (-1, 4), (3.9, 4), (4, 4), (5, 5), (8192, 8192)])
def test_the_window_is_never_below_four_tokens(sent: float, meant: int) -> None:
    assert resolve({"num_ctx": sent}).num_ctx == meant


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, 1e300, 10**400, -(10**400)])
@pytest.mark.parametrize(("type_", "key"), [(type_, key) for type_, keys in OF_TYPE.items() for key in keys])
def test_a_number_that_the_type_cannot_hold_is_refused(type_: str, key: str, number: float) -> None:
    with refused(f'option "{key}" must be of type {type_}'):
        resolve({key: number})


@pytest.mark.row("A5", "B3")
@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            **{key: st.integers(-(2**63) + 1, 2**63 - 1) for key in OF_TYPE["integer"]},
            **{key: st.floats(width=32, allow_nan=False, allow_infinity=False) for key in OF_TYPE["float32"]},
            "use_mmap": st.booleans(),
            "stop": st.lists(st.text()),
        },
    )
)
def test_every_option_of_its_type_is_taken_as_it_is(options: dict[str, Any]) -> None:
    found = dataclasses.asdict(resolve(options))
    for key, value in options.items():
        if key == "num_ctx":
            assert found[key] == max(value, 4)
        elif not OPTIONS[key].no_op:
            assert found[key] == (tuple(value) if key == "stop" else value)


@pytest.mark.point(91, 92)
def test_a_format_that_can_be_enforced() -> None:
    assert read_format(None) is None
    assert read_format("") is None
    assert read_format("json") == Constraint(None)
    assert read_format({"type": "object"}) == Constraint({"type": "object"})
    assert read_format({}) == Constraint({})


@pytest.mark.point(89, 90)
@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("xml", r'"\"xml\""'),
        ("JSON", r'"\"JSON\""'),
        (5, '"5"'),
        (1.5, '"1.5"'),
        ([1], '"[1]"'),
        ([1, {"a": "é"}], r'"[1,{\"a\":\"é\"}]"'),
        (True, '"true"'),
        (False, '"false"'),
        (0, '"0"'),
    ],
)
def test_any_other_format_is_refused_and_shown_as_it_was_sent(raw: Any, shown: str) -> None:
    with refused(f'invalid format: {shown}; expected "json" or a valid JSON Schema object'):
        read_format(raw)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", '"plain"'),
        ('a"b\\c', r'"a\"b\\c"'),
        ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
        ("\x00\x1f\x7f", r'"\x00\x1f\x7f"'),
        ("é 中 \U0001f600", '"é 中 \U0001f600"'),
        ("\u0085\u00a0\u200b\ufeff", r'"\u0085\u00a0\u200b\ufeff"'),
        ("\U000e0001", r'"\U000e0001"'),
    ],
)
def test_quoting_is_that_of_go(text: str, shown: str) -> None:
    assert quoted(text) == shown
