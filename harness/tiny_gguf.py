"""GGUF files that are sound and hold next to nothing."""

import struct


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
