"""What `config.json` says of a model's shape, in Ollama's words."""

from collections.abc import Iterator, Mapping
from typing import Any

from app.catalogue.folder import ModelFolder

LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "max_seq_length",
    "max_target_positions",
    "seq_len",
)
DEFAULT_LENGTH = 2048
"""What vLLM takes when a config names no length."""

ALREADY_SCALED = frozenset({"default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "mrope"})
"""Kinds of RoPE whose factor is contained in the length that the config gives."""

HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")

KEYS = {
    "embedding_length": HIDDEN,
    "block_count": LAYERS,
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim"),
    "attention.head_count": HEADS,
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "multi_query_group_num"),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon"),
    "attention.sliding_window": ("sliding_window",),
    "expert_count": ("num_experts", "num_local_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok", "num_experts_per_token"),
    "vocab_size": ("vocab_size",),
}
"""GGUF key (after the architecture) and the names that configs use for it."""

VISION_KEYS = {
    "block_count": ("num_hidden_layers", "depth", "layers"),
    "embedding_length": ("hidden_size", "embed_dim", "width"),
    "feed_forward_length": ("intermediate_size",),
    "attention.head_count": ("num_attention_heads", "num_heads"),
    "image_size": ("image_size",),
    "patch_size": ("patch_size",),
}
VISION_MARKS = ("vision_config", "vision_tower_config", "mm_vision_tower", "img_processor", "visual")

FAMILIES = {"xlm-roberta": "bert", "roberta": "bert", "camembert": "bert", "mpnet": "bert"}
"""Families whose GGUF name is not `model_type` without its separators."""

POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}
GENERATORS = (
    "LMHeadModel",
    "ChatModel",
    "ChatGLMModel",
    "OmniModel",
    "UltravoxModel",
    "AudioModel",
    "LMModel",
)
"""Architectures that end in `Model` and generate all the same."""


def family(folder: ModelFolder) -> str:
    """The family as Ollama writes it: `llama`, `qwen3moe`, `gptoss`, `bert`."""
    kind = str(folder.config.get("model_type") or folder.text.get("model_type") or "unknown").lower()
    return FAMILIES.get(kind) or kind.removesuffix("_text").replace("_", "").replace("-", "")


def model_types(folder: ModelFolder) -> tuple[str, ...]:
    """The `model_type`s of the whole and of the text part."""
    return tuple(str(source.get("model_type")) for source in (folder.config, folder.text))


def is_embedder(folder: ModelFolder) -> bool:
    """Whether the model turns text into vectors rather than into text."""
    if folder.modules or folder.pooling:
        return True
    name = folder.architecture
    if name.endswith(GENERATORS):
        return False
    return name.endswith(("Model", "ForMaskedLM", "ForTextEmbedding", "ForSequenceEmbedding"))


def sees_images(folder: ModelFolder) -> bool:
    return any(folder.config.get(mark) for mark in VISION_MARKS)


def embedding_length(folder: ModelFolder) -> int:
    return int(_first(folder.text, HIDDEN) or 0)


def context_length(folder: ModelFolder) -> int:
    """The longest window that the model's files allow, as vLLM derives it."""
    limit = _number(folder.sentence, "max_seq_length")
    if limit is not None:
        return int(limit)
    lengths = [length for key in LENGTHS if (length := _number(folder.text, key)) is not None]
    length = _number(folder.text, "model_max_length") or min(lengths, default=None)
    if (cap := _number(folder.tokenizer_config, "model_max_length")) is not None:
        length = cap if length is None else min(length, cap)
    if length is None or length > 1e12:
        length = DEFAULT_LENGTH
    return int(length * _rope_factor(folder))


def info(folder: ModelFolder, parameter_count: int) -> dict[str, Any]:
    """The flat map of `/api/show`; keys under `clip.` describe the part that sees."""
    name = family(folder)
    flat: dict[str, Any] = {
        "general.architecture": name,
        "general.parameter_count": parameter_count,
        f"{name}.context_length": context_length(folder),
    }
    flat |= _named(name, KEYS, folder.text)
    if (base := _rope(folder).get("rope_theta") or folder.text.get("rope_theta")) is not None:
        flat[f"{name}.rope.freq_base"] = base
    if is_embedder(folder):
        flat |= {f"{name}.attention.causal": "Causal" in folder.architecture}
        flat |= {f"{name}.pooling_type": kind for kind in _pooling(folder.pooling)}
    if isinstance(vision := folder.config.get("vision_config"), dict):
        flat |= {"clip.has_vision_encoder": True} | _named("clip.vision", VISION_KEYS, vision)
    return flat


def _named(prefix: str, keys: Mapping[str, tuple[str, ...]], config: Mapping[str, Any]) -> dict[str, Any]:
    found = ((key, _first(config, names)) for key, names in keys.items())
    return {f"{prefix}.{key}": value for key, value in found if value is not None}


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | float | None:
    return next((value for name in names if (value := _number(config, name)) is not None), None)


def _number(config: Mapping[str, Any], key: str) -> int | float | None:
    value = config.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _rope(folder: ModelFolder) -> Mapping[str, Any]:
    """The rotary settings; where layers differ, those of the layers that see everything."""
    rope = folder.text.get("rope_parameters") or folder.text.get("rope_scaling") or {}
    return rope.get("full_attention") or rope


def _rope_factor(folder: ModelFolder) -> float:
    rope = _rope(folder)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind in ALREADY_SCALED or "gemma3" in str(folder.config.get("model_type")):
        return 1.0
    return float(_number(rope, "factor") or 1.0)


def _pooling(pooling: Mapping[str, Any]) -> Iterator[int]:
    for kind, number in POOLING.items():
        if pooling.get("pooling_mode") == kind or any(
            pooling.get(f"pooling_mode_{kind}{ending}") for ending in ("", "_token", "_tokens")
        ):
            yield number
