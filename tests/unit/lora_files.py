"""A small LoRA as PEFT writes it, and a base that it fits."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from tests.unit.catalogue_folders import make_folder

MODULE = "model.layers.0.self_attn.q_proj"
CONFIG: Mapping[str, Any] = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "modules_to_save": None,
    "rank_pattern": {},
}


def base_folder(path: Path) -> Path:
    """Layers of a width of 8, as `lora` is made for."""
    return make_folder(
        path,
        tensors={
            "model.embed_tokens.weight": ("bfloat16", (6, 8)),
            f"{MODULE}.weight": ("bfloat16", (16, 8)),
            "model.layers.0.mlp.down_proj.weight": ("bfloat16", (8, 32)),
        },
    )


def lora(
    shapes: Mapping[str, tuple[int, int]] | None = None,
    *,
    rank: int = 4,
    fill: float = 0.5,
    dtype: str = "f4",
) -> bytes:
    """The weights: `shapes` gives (out, in) of each module."""
    tensors: dict[str, Any] = {}
    for module, (outputs, inputs) in (shapes or {MODULE: (16, 8)}).items():
        for part, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            tensors[f"base_model.model.{module}.lora_{part}.weight"] = np.full(shape, fill, dtype)
    return save(tensors)


def lora_config(**changed: Any) -> bytes:
    return json.dumps({**CONFIG, **changed}).encode()


def lora_folder(path: Path, weights: bytes | None = None, **changed: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_model.safetensors").write_bytes(lora() if weights is None else weights)
    (path / "adapter_config.json").write_bytes(lora_config(**changed))
    return path
