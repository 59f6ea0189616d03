"""A model of a given shape without weights: vLLM makes its own (`load_format: dummy`), sizes are real."""

import json
from pathlib import Path
from typing import Any

QWEN3_8B: dict[str, int] = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}
"""As the model's own `config.json` has it."""
SMALL = QWEN3_8B | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 2048,
    "max_position_embeddings": 4096,
}
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
_BYTES = 2


_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def make(folder: Path, shape: dict[str, int], *, embeds: bool = False) -> Path:
    """The folder of such a model. Its weights are a header, and behind that a hole of the right size."""
    folder.mkdir(parents=True)
    end = shape["vocab_size"] - 1
    config = shape | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "dtype": "bfloat16",
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False,
        "eos_token_id": end,
        "bos_token_id": None,
    }
    (folder / "config.json").write_text(json.dumps(config))
    _tokenizer(folder, shape["vocab_size"])
    _weights(folder / "model.safetensors", shape)
    if embeds:
        (folder / "modules.json").write_text(json.dumps(_MODULES))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    return folder


def _tokenizer(folder: Path, size: int) -> None:
    """Every byte is a token, and the others are words, so that each token of a reply is text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġw{number}" for number in range(size - len(alphabet) - 1)]
    vocabulary = {word: number for number, word in enumerate([*alphabet, *words, "<|end|>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "chat_template": _TEMPLATE,
        "model_max_length": 1 << 20,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def _weights(file: Path, shape: dict[str, int]) -> None:
    entries: dict[str, Any] = {}
    end = 0
    for name, sizes in _tensors(shape):
        begin, count = end, 1
        for size in sizes:
            count *= size
        end = begin + count * _BYTES
        entries[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    with file.open("wb") as output:
        output.write(len(header).to_bytes(8, "little") + header)
        output.truncate(8 + len(header) + end)


def _tensors(shape: dict[str, int]) -> list[tuple[str, list[int]]]:
    hidden, inner, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    queries, keys = shape["num_attention_heads"] * head, shape["num_key_value_heads"] * head
    found = [("model.embed_tokens.weight", [shape["vocab_size"], hidden]), ("model.norm.weight", [hidden])]
    for number in range(shape["num_hidden_layers"]):
        found += [
            (f"model.layers.{number}.{name}.weight", sizes)
            for name, sizes in (
                ("input_layernorm", [hidden]),
                ("post_attention_layernorm", [hidden]),
                ("self_attn.q_proj", [queries, hidden]),
                ("self_attn.k_proj", [keys, hidden]),
                ("self_attn.v_proj", [keys, hidden]),
                ("self_attn.o_proj", [hidden, queries]),
                ("self_attn.q_norm", [head]),
                ("self_attn.k_norm", [head]),
                ("mlp.gate_proj", [inner, hidden]),
                ("mlp.up_proj", [inner, hidden]),
                ("mlp.down_proj", [hidden, inner]),
            )
        ]
    return [*found, ("lm_head.weight", [shape["vocab_size"], hidden])]
