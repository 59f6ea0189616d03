"""The weights of a model: names, types and shapes from the headers of their files, and how many there are."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.catalogue.folder import TORCH_SUFFIXES, ModelFolder, model_files
from app.catalogue.headers import MOST_TENSORS, BadHeader, read_safetensors
from app.core.errors import LoadFailed
from app.core.model import TensorInfo

TYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
TYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
PACKED = ("qweight", "weight_packed", "_blocks")
"""Endings of tensors whose elements hold several weights each."""

NOT_WEIGHTS = (
    *("qzeros", "scales", "g_idx", "weight_scale", "weight_scale_inv", "weight_scale_2", "weight_zero_point"),
    *("weight_shape", "weight_g_idx", "weight_global_scale", "input_global_scale", "input_scale", "_scales"),
    *("k_scale", "v_scale", "absmax", "quant_map", "nested_absmax", "nested_quant_map"),
)
"""Endings of tensors that only serve to unpack others."""

BITS = {"I8": 8, "U8": 8, "I32": 32, "U32": 32}
COMPRESSED = {
    "float-quantized": "FP8",
    "int-quantized": "W8A8",
    "nvfp4-pack-quantized": "NVFP4",
    "mxfp4-pack-quantized": "MXFP4",
}


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a model, the number of its parameters and the name of their type (`BF16`, `AWQ`)."""

    tensors: tuple[TensorInfo, ...]
    parameter_count: int
    quantization: str


def read_weights(folder: ModelFolder) -> Weights:
    """Read the headers of the weight files; for PyTorch files only their size tells something."""
    files = model_files(folder.path)
    method = quantization_config(folder)
    tensors: list[TensorInfo] = []
    for file in files:
        tensors += read_header(file) if file.suffix == ".safetensors" else ()
        if len(tensors) > MOST_TENSORS:
            raise LoadFailed(f"{folder.path} has more than {MOST_TENSORS} tensors")
    if not tensors:
        return _from_sizes(folder, files, method)
    kinds = Counter[str]()
    for tensor in tensors:
        kinds[tensor.type] += _parameters(tensor, _packed_bits(method))
    name = _method_name(method) or _type_name(kinds.most_common(1)[0][0])
    return Weights(tuple(tensors), kinds.total(), name)


def read_header(file: Path) -> list[TensorInfo]:
    """The tensors that a safetensors file announces, and has."""
    try:
        return read_safetensors(file)
    except BadHeader as error:
        raise LoadFailed(f"{file} is not a safetensors file: {error}") from error


def human_number(number: int) -> str:
    """Thousands, millions and billions as Ollama prints them: `8.0B`, `7B`, `134.52M`, `107K`."""
    for size, letter, digits in ((10**9, "B", 1), (10**6, "M", 2)):
        if number >= size:
            return f"{number / size:.{0 if number % size == 0 else digits}f}{letter}"
    return f"{number / 1000:.0f}K" if number >= 1000 else str(number)


def quantization_config(folder: ModelFolder) -> Mapping[str, Any]:
    """How the weights were quantized; empty when they were not."""
    keys = ("quantization_config", "compression_config")
    found = (source.get(key) for key in keys for source in (folder.config, folder.text))
    return next((method for method in found if isinstance(method, dict)), {})


def _from_sizes(folder: ModelFolder, files: Sequence[Path], method: Mapping[str, Any]) -> Weights:
    size = sum(file.stat().st_size for file in files if file.suffix in TORCH_SUFFIXES)
    if not size:
        raise LoadFailed(f"{folder.path} holds no weights (.safetensors or .bin files)")
    kind = str(folder.text.get("dtype") or folder.text.get("torch_dtype") or "float32")
    count = size // TYPE_BYTES.get(kind, 4)
    return Weights((), count, _method_name(method) or TYPE_NAMES.get(kind, "unknown"))


def _parameters(tensor: TensorInfo, bits: int) -> int:
    """How many weights a tensor holds; scales, positions and masks hold none."""
    if tensor.name.endswith(NOT_WEIGHTS) or "quant_state" in tensor.name:
        return 0
    count = math.prod(tensor.shape)
    if tensor.type.startswith(("F", "BF")):
        return count
    packed = tensor.name.endswith((*PACKED, "weight"))
    return count * BITS.get(tensor.type, 0) // bits if packed else 0


def _packed_bits(method: Mapping[str, Any]) -> int:
    """How many bits one weight takes where several share an element."""
    if bits := method.get("bits") or method.get("w_bit"):
        return int(bits)
    for group in (method.get("config_groups") or {}).values():
        if bits := (group.get("weights") or {}).get("num_bits"):
            return int(bits)
    return 8 if method.get("load_in_8bit") else 4


def _method_name(method: Mapping[str, Any]) -> str:
    name = str(method.get("quant_method") or "")
    if name == "compressed-tensors":
        return COMPRESSED.get(str(method.get("format")), f"W{_packed_bits(method)}A16")
    if name == "bitsandbytes":
        return f"BNB{_packed_bits(method)}"
    if name == "modelopt":
        return str(method.get("quant_algo") or name).upper()
    return name.upper()


def _type_name(kind: str) -> str:
    return "FP8" if kind.startswith("F8_") else kind
