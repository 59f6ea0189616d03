"""GGUF files that hold next to nothing: one that is whole and converts in seconds, and heads of others."""

import struct
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

_WIDTH, _INNER, _HEADS, _BLOCKS = 32, 64, 4, 2


def write_gguf(file: Path, *, template: str = "{{ messages }}", seed: int = 0) -> Path:
    """A Llama of two blocks over a vocabulary of bytes; another `seed` has other weights."""
    chance = np.random.default_rng(seed)
    writer = GGUFWriter(str(file), "llama")
    writer.add_name("tiny")
    writer.add_context_length(2048)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_BLOCKS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_file_type(0)
    tokens = ["<s>", "</s>", *(chr(code) for code in range(33, 127)), "ab", "cd"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 2 + [TokenType.NORMAL] * (len(tokens) - 2))
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(template)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, chance.standard_normal(shape, dtype=np.float32))

    add("token_embd.weight", len(tokens), _WIDTH)
    for block in range(_BLOCKS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{block}.{part}.weight", _WIDTH, _WIDTH)
        add(f"blk.{block}.ffn_gate.weight", _INNER, _WIDTH)
        add(f"blk.{block}.ffn_up.weight", _INNER, _WIDTH)
        add(f"blk.{block}.ffn_down.weight", _WIDTH, _INNER)
        add(f"blk.{block}.attn_norm.weight", _WIDTH)
        add(f"blk.{block}.ffn_norm.weight", _WIDTH)
    add("output_norm.weight", _WIDTH)
    add("output.weight", len(tokens), _WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def gguf(marker: int | str = 0, template: str = "{{ messages }}", architecture: str = "llama") -> bytes:
    """A small GGUF file of one tensor; files of other markers have other digests."""

    def text(value: str) -> bytes:
        data = value.encode()
        return struct.pack("<Q", len(data)) + data

    def entry(key: str, value: str | int) -> bytes:
        if isinstance(value, str):
            return text(key) + struct.pack("<I", 8) + text(value)
        return text(key) + struct.pack("<II", 4, value)

    metadata: dict[str, str | int] = {
        "general.architecture": architecture,
        "general.file_type": 0,
        "marker": marker,
        f"{architecture}.context_length": 2048,
        f"{architecture}.embedding_length": 32,
        "tokenizer.chat_template": template,
    }
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(metadata))
    head += b"".join(entry(key, value) for key, value in metadata.items())
    head += text("token_embd.weight") + struct.pack("<IQIQ", 1, 8, 0, 0)
    return head + bytes(-len(head) % 32) + bytes(32)
