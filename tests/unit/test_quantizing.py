"""What `quantize` comes to on either kind of machine."""

from dataclasses import replace

import pytest

from app.catalogue.quantizing import check_quantization, quantization_of, quantized
from app.core.errors import CreateFailed, InvalidRequest
from harness.fake_model import fake_model


@pytest.mark.parametrize("on_gpu", [True, False])
@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("Q4_K_M", InvalidRequest, "quantize Q4_K_M: vLLM makes no Q4_K_M of weights: create from a file"),
        ("f16", InvalidRequest, "quantize f16: vLLM serves weights in the type that they have"),
        ("BF16", CreateFailed, "unsupported quantization type BF16 - supported types are F32, F16, Q4_K_S"),
    ],
)
def test_what_is_refused_on_any_machine(
    name: str, kind: type[Exception], reason: str, *, on_gpu: bool
) -> None:
    with pytest.raises(kind) as raised:
        check_quantization(name, on_gpu=on_gpu)
    assert str(raised.value).startswith(reason)


@pytest.mark.parametrize("name", ["q8_0", "FP8"])
def test_eight_bits_take_a_gpu(name: str) -> None:
    check_quantization(name, on_gpu=True)
    with pytest.raises(InvalidRequest, match=f"quantize {name}: eight bits .* takes a GPU"):
        check_quantization(name, on_gpu=False)


def test_weights_that_are_quantized_stay_so() -> None:
    model = fake_model("m")
    assert quantized(model, is_configured=False) == {"quantization": "fp8_per_tensor"}
    with pytest.raises(CreateFailed, match="only supported for F16, BF16 and F32"):
        quantized(replace(model, facts=replace(model.facts, quantization="AWQ")), is_configured=False)


@pytest.mark.parametrize(
    ("found", "argument", "shown"),
    [
        ("BF16", "fp8_per_tensor", "FP8"),
        ("F32", "fp8_per_channel", "FP8"),
        ("BF16", None, "BF16"),
        ("BF16", "other", "BF16"),
        ("AWQ", "fp8_per_tensor", "AWQ"),
    ],
)
def test_what_is_shown_of_weights(found: str, argument: str | None, shown: str) -> None:
    assert quantization_of(found, {"quantization": argument}) == shown
