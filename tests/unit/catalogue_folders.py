"""Tiny model folders, written as the real tools write them."""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import TensorSpec, serialize_file

from app.core.model import ModelName, ModelSpec

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "vocab_size": 6,
}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8}

QWEN = (
    "{% if tools %}<tools>{{ tools }}</tools> answer in <tool_call>{...}</tool_call>{% endif %}"
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
QWEN_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")


def make_folder(
    path: Path,
    config: Mapping[str, Any] = LLAMA,
    *,
    template: str = "",
    tokens: Sequence[str] = (),
    tensors: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
    files: Mapping[str, Any] | None = None,
) -> Path:
    """A folder with a config, a tokenizer of `a`, `b` and the added `tokens`, and weights of zeros.

    `tensors` gives type and shape by name; `files` are further JSON files.
    """
    path.mkdir(parents=True, exist_ok=True)
    given = tensors or {
        "model.embed_tokens.weight": ("bfloat16", (6, 8)),
        "model.norm.weight": ("float32", (8,)),
    }
    write = {
        "config.json": config,
        "tokenizer_config.json": {"eos_token": "b", "bos_token": {"content": "a"}},
        "tokenizer.json": tokenizer(tokens),
        **(files or {}),
    }
    for name, content in write.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(content), "utf-8")
    if template:
        (path / "chat_template.jinja").write_text(template, "utf-8")
    zeros = np.zeros(max(prod(shape) * BYTES[kind] for kind, shape in given.values()), np.uint8)
    weights = {
        name: TensorSpec(
            dtype=kind, shape=shape, data_ptr=zeros.ctypes.data, data_len=prod(shape) * BYTES[kind]
        )
        for name, (kind, shape) in given.items()
    }
    serialize_file(weights, str(path / "model.safetensors"), {"format": "pt"})
    return path


def tokenizer(tokens: Sequence[str]) -> dict[str, Any]:
    added = [{"id": 2 + number, "content": text, "special": False} for number, text in enumerate(tokens)]
    return {
        "added_tokens": added,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]},
    }


def spec(name: str, source: str | Path = "", **fields: Any) -> ModelSpec:
    """A spec whose name is written `namespace/model:tag`, any but the model left out."""
    namespace, _, rest = name.rpartition("/")
    model, _, tag = rest.partition(":")
    return ModelSpec(ModelName(model, tag or "latest", namespace or "library"), str(source), **fields)
