"""Which weights an engine takes, and what becomes of a GGUF file's on each platform."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

from app.core.errors import LoadFailed
from app.core.model import Model
from app.engine.vllm.config import EngineDefaults, engine_args
from app.engine.vllm.process.failures import NEEDS_CODE, load_reason
from app.engine.vllm.weights import FP8, Device, check_weights, gguf_arguments
from tests.unit.garage import model

pytestmark = pytest.mark.filterwarnings("ignore")

CPU = Device(is_cpu=True)
H100 = Device(is_cpu=False, memory_bytes=80 << 30, has_fp8=True)
A10 = Device(is_cpu=False, memory_bytes=24 << 30)
SMALL = Device(is_cpu=False, memory_bytes=8 << 30, has_fp8=True)
BASE = {"general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen3-8B"}


def gguf(billions: float, quantization: str = "Q4_K_M", **spec: Any) -> Model:
    made = model("m")
    facts = replace(
        made.facts, format="gguf", quantization=quantization, parameter_count=int(billions * 1e9), info=BASE
    )
    return replace(made, facts=facts, spec=replace(made.spec, **spec))


@pytest.mark.parametrize(
    ("device", "billions", "quantization", "wanted"),
    [
        (CPU, 70, "Q4_K_M", {}),
        (H100, 8, "Q4_K_M", {"quantization": FP8}),
        (H100, 8, "BF16", {}),
        (A10, 8, "Q4_K_M", {}),
        (replace(A10, count=4), 32, "Q4_K_M", {}),
    ],
)
def test_what_a_gguf_file_becomes(device: Device, billions: float, quantization: str, wanted: Any) -> None:
    assert gguf_arguments(gguf(billions, quantization), device) == wanted


@pytest.mark.parametrize(("device", "billions", "takes"), [(A10, 14, "26.1"), (SMALL, 8, "7.5")])
def test_what_does_not_fit_is_refused_with_the_numbers(device: Device, billions: float, takes: str) -> None:
    with pytest.raises(LoadFailed, match=rf"{takes} GiB.*room for .* GiB; serve .* of Qwen/Qwen3-8B instead"):
        gguf_arguments(gguf(billions), device)


def test_a_file_stays_packed_where_the_plugin_is_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.touch()
    with_plugin = replace(A10, has_plugin=True)
    found = gguf_arguments(gguf(32, source=str(file)), with_plugin)
    assert (found["model"], found["quantization"]) == (str(file), "gguf")
    assert "quantization" not in gguf_arguments(gguf(8, source="hf.co/x"), with_plugin)


def test_an_operator_s_word_comes_first() -> None:
    assert gguf_arguments(gguf(70, engine={"quantization": "mxfp8"}), A10) == {}


def test_bitsandbytes_is_refused_with_a_way_out() -> None:
    with pytest.raises(LoadFailed, match=r"bitsandbytes.*AWQ, GPTQ or FP8"):
        check_weights(gguf(8, "BNB4"))
    check_weights(gguf(8, "AWQ"))


def test_the_methods_are_those_of_vllm() -> None:
    assert FP8 in QUANTIZATION_METHODS
    assert "bitsandbytes" not in QUANTIZATION_METHODS


def test_a_model_that_sees_keeps_no_memory_for_films_and_sounds() -> None:
    sees = replace(model("m"), facts=replace(model("m").facts, capabilities=("completion", "vision")))
    assert engine_args(sees, EngineDefaults()).limit_mm_per_prompt == {"video": 0, "audio": 0}
    asked = replace(sees, spec=replace(sees.spec, engine={"limit_mm_per_prompt": {"image": 2, "video": 1}}))
    limits = engine_args(asked, EngineDefaults()).limit_mm_per_prompt
    assert limits == {"image": 2, "video": 1, "audio": 0}
    assert not engine_args(model("m"), EngineDefaults()).limit_mm_per_prompt


@pytest.mark.parametrize(
    "text",
    [
        "Failed to load the model config. consider setting `trust_remote_code=True` in LLM or using",
        "contains custom code. Please pass the argument `trust_remote_code=True` to allow custom code",
    ],
)
async def test_code_of_a_repository_is_the_operators_to_allow(text: str) -> None:
    output: Any = None
    assert await load_reason(RuntimeError(text), output) == NEEDS_CODE
    assert await load_reason(RuntimeError("config: trust_remote_code=False"), output) != NEEDS_CODE
