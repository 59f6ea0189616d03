"""What room for LoRA adapters takes: vLLM reserves it when an engine starts, whether or not there are any."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RANKS = (16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM takes, from its default on."""


@dataclass(frozen=True, slots=True)
class Room:
    """`slots` for adapters of up to `rank`; 0: none."""

    slots: int = 0
    rank: int = 0

    @property
    def label(self) -> str:
        """What tells measurements with it from others."""
        return f"+{self.slots}x{self.rank}" if self.slots else ""


def room(given: Mapping[str, Any], adapters: int, rank: int, *, on_cpu: bool) -> Room:
    """Of an engine with the arguments `given` and adapters up to `rank` (0: none). A slot of the largest rank
    is reserved for each that a batch may hold."""
    if given.get("enable_lora") is False or not (rank or given.get("enable_lora")):
        return Room()
    slots = int(given.get("max_loras") or adapters)
    if on_cpu:
        slots += 1  # of the rows without an adapter
    return Room(slots, int(given.get("max_lora_rank") or next(each for each in RANKS if each >= rank)))


def room_bytes(info: Mapping[str, Any], reserved: Room, width: int) -> int:
    """By the numbers of `/api/show`, `width` bytes each, on every device alike; 0 where they are not told.

    All linear layers that vLLM can adapt count, whatever the adapters have: their inputs and outputs, and
    the vocabulary's twice.
    """
    family = info.get("general.architecture", "")

    def number(name: str) -> int:
        value = info.get(f"{family}.{name}")
        return value if isinstance(value, int) else 0

    hidden, heads = number("embedding_length"), number("attention.head_count")
    head = number("attention.key_length") or (hidden // heads if heads else 0)
    query, keys = heads * head, (number("attention.head_count_kv") or heads) * head
    attention = 2 * (hidden + query) + 2 * (hidden + keys)
    experts = number("expert_count")
    between = number("expert_feed_forward_length") if experts else number("feed_forward_length")
    mlp = 3 * (hidden + between) * max(1, experts)
    ends = 2 * (hidden + number("vocab_size"))
    return reserved.slots * reserved.rank * width * (number("block_count") * (attention + mlp) + ends)
