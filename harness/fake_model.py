"""A model that is on no disk, for scripted engines."""

from datetime import UTC, datetime
from pathlib import Path

from app.core.model import Capability, Model, ModelFacts, ModelName, ModelSpec

EVERYTHING: tuple[Capability, ...] = ("completion", "tools", "thinking", "insert", "vision")


def fake_model(name: str, *capabilities: Capability) -> Model:
    facts = ModelFacts(
        path=Path("/models") / name,
        digest="0" * 64,
        size_bytes=1,
        modified_at=datetime(2026, 1, 1, tzinfo=UTC),
        format="safetensors",
        family="llama",
        families=("llama",),
        parameter_count=1,
        parameter_size="1",
        quantization="F32",
        context_length=4096,
        embedding_length=32,
        capabilities=capabilities or EVERYTHING,
        fim=("<PRE>", "<SUF>", "<MID>"),
    )
    return Model(ModelSpec(ModelName(name), name), facts, name)
