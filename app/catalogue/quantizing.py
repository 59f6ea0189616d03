"""`quantize` of a create: what vLLM can make of weights while it loads them (docs/reference 11.1)."""

from collections.abc import Mapping
from typing import Any

from app.core.errors import CreateFailed, InvalidRequest
from app.core.model import Model

FP8 = "FP8"
EIGHT_BITS = ("Q8_0", FP8)
"""Names of eight bits a weight; the first is Ollama's, whose blocks vLLM does not have."""

PLAIN = ("F16", "BF16", "F32")
"""Of weights that nobody has quantized yet."""

_NAMES = ("F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0")
_ARGUMENTS = {"quantization": "fp8_per_tensor"}
"""vLLM's name for making FP8 of plain weights; its `fp8` is for weights that are FP8 already."""


def check_quantization(name: str, *, on_gpu: bool) -> None:
    """Raises:
    CreateFailed: in Ollama's words for a name that is none.
    InvalidRequest: for one that cannot be had on this server, with what can be done.
    """
    kind = name.upper()
    if not name or (kind in EIGHT_BITS and on_gpu):
        return
    if kind in EIGHT_BITS:
        raise InvalidRequest(
            f"quantize {name}: eight bits a weight are FP8 here, which takes a GPU, and this server has "
            "none: create the model as it is, or from a repository that is quantized"
        )
    if kind not in _NAMES:
        supported = ", ".join(_NAMES)
        raise CreateFailed(f"unsupported quantization type {kind} - supported types are {supported}")
    if kind in PLAIN:
        raise InvalidRequest(
            f"quantize {name}: vLLM serves weights in the type that they have; for another configure the "
            "model with the engine argument 'dtype'"
        )
    raise InvalidRequest(
        f"quantize {name}: vLLM makes no {kind} of weights: create from a file or repository that is "
        "quantized, or quantize to q8_0, which is FP8 here and takes a GPU"
    )


def quantized(model: Model, *, is_configured: bool) -> Mapping[str, Any]:
    """The engine arguments by which vLLM quantizes the model's weights at each load; its files stay.

    Raises:
        CreateFailed: in Ollama's words for weights that are quantized.
        InvalidRequest: where it cannot be done to this model, with what can be.
    """
    if is_configured:
        raise InvalidRequest(
            f"quantize: {model.name} would run on the engine of a configured model; configure that one with "
            "the engine argument 'quantization'"
        )
    if model.facts.quantization not in PLAIN:
        raise CreateFailed("quantization is only supported for F16, BF16 and F32 models")
    if model.facts.format != "safetensors":
        raise InvalidRequest(
            "quantize: only weights in safetensors are quantized here; create from the repository that the "
            f"{model.facts.format} file was made of"
        )
    return _ARGUMENTS


def quantization_of(found: str, engine: Mapping[str, Any]) -> str:
    """What is shown of weights of the type `found` that are loaded with these arguments."""
    makes_fp8 = str(engine.get("quantization")).startswith("fp8_per_")
    return FP8 if found in PLAIN and makes_fp8 else found
