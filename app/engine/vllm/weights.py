"""What a model's weights need of a device: which kinds are refused, and how a GGUF file's go onto a GPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vllm.platforms import current_platform

from app.core.errors import LoadFailed
from app.core.model import Model, ModelFacts

FP8 = "fp8_per_tensor"
"""vLLM's name for 8-bit weights that are made while it loads; where the device computes with them."""

_PLUGIN = "vllm_gguf_plugin"
_WHOLE = ("F32", "F16", "BF16", "F64")
_SHARE = 0.92
"""Of a device's memory, by vLLM's default."""

_BESIDES = 3 << 29
"""What an engine needs beside its weights, at the least: context, workspace and a little cache."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where the engine will run. `memory_bytes` are those of one device, of which it has `count`."""

    is_cpu: bool
    memory_bytes: int = 0
    count: int = 1
    has_fp8: bool = False
    has_plugin: bool = False

    @property
    def room_bytes(self) -> int:
        return int(self.memory_bytes * _SHARE) * self.count - _BESIDES


def check_weights(model: Model) -> None:
    """Whether vLLM has a method for the model's weights.

    Raises:
        LoadFailed: for those of bitsandbytes, which vLLM left out of its own methods.
    """
    if model.facts.quantization.startswith("BNB"):
        raise LoadFailed(
            f"{model.name} has weights of bitsandbytes, which this version of vLLM does not read: "
            f"{_better(model.facts)}"
        )


def device_of(engine: Mapping[str, Any]) -> Device:
    """The device that an engine with these arguments will run on."""
    if current_platform.is_cpu():
        return Device(is_cpu=True)
    count = int(engine.get("tensor_parallel_size") or 1) * int(engine.get("pipeline_parallel_size") or 1)
    return Device(
        is_cpu=False,
        memory_bytes=current_platform.get_device_total_memory(),
        count=count,
        has_fp8=current_platform.supports_fp8(),
        has_plugin=find_spec(_PLUGIN) is not None,
    )


def gguf_arguments(model: Model, device: Device) -> Mapping[str, Any]:
    """Engine arguments for weights that come from a GGUF file, which are bfloat16 by now.

    On a GPU they would take up to four times what they did in the file: they stay packed where vLLM's plugin
    is installed and the file is there, and become 8-bit ones where the device computes with those. An
    operator's `quantization` comes before all of it.

    Raises:
        LoadFailed: where nothing of that finds room, with the numbers.
    """
    facts = model.facts
    if device.is_cpu or facts.format != "gguf" or model.spec.engine.get("quantization"):
        return {}
    whole = facts.quantization in _WHOLE
    file = Path(model.spec.source).expanduser()
    if device.has_plugin and not whole and file.suffix.lower() == ".gguf" and file.is_file():
        folder = str(facts.path)
        return {"model": str(file), "tokenizer": folder, "hf_config_path": folder, "quantization": "gguf"}
    packed, plain = facts.parameter_count, 2 * facts.parameter_count
    if device.has_fp8 and not whole and packed <= device.room_bytes:
        return {"quantization": FP8}
    if plain <= device.room_bytes:
        return {}
    least = packed if device.has_fp8 and not whole else plain
    raise LoadFailed(
        f"{model.name} does not fit: the {facts.quantization} weights of its GGUF file become "
        f"{_gib(least)} GiB on this device, which has room for {_gib(max(device.room_bytes, 0))} GiB; "
        f"{_better(facts)}"
    )


def _better(facts: ModelFacts) -> str:
    """Which repository to serve in place of this one."""
    base = str(facts.info.get("general.base_model.0.repo_url") or facts.info.get("general.basename") or "")
    of = f" of {base.removeprefix('https://huggingface.co/')}" if base else " of the same model"
    return f"serve a repository with AWQ, GPTQ or FP8 weights{of} instead"


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.1f}"
