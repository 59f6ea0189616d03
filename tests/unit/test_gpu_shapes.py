"""The model of the GPU script that has a shape and no weights: Caravan reads it as a model of that size."""

from pathlib import Path

from transformers import AutoTokenizer

from app.catalogue.preparation import prepare
from app.core.model import ModelName, ModelSpec
from app.engine.memory.need import cache_bytes_per_token, weights_bytes
from gpu import shapes


def test_its_size_is_that_of_the_shape_and_it_takes_no_room(tmp_path: Path) -> None:
    folder = shapes.make(tmp_path / "shaped", shapes.SMALL)
    spec = ModelSpec(ModelName("big"), str(folder), engine={"load_format": "dummy"})
    [model] = prepare([spec], tmp_path / "cache").all()
    assert (model.facts.family, model.facts.quantization) == ("qwen3", "BF16")
    assert model.facts.parameter_count == _parameters(shapes.SMALL)
    assert weights_bytes(model, "auto") == 2 * _parameters(shapes.SMALL)
    assert cache_bytes_per_token(model.facts.info) == 2 * 2 * 2 * 1 * 32
    assert (folder / "model.safetensors").stat().st_blocks * 512 < 64 << 10


def test_the_shape_is_that_of_a_model_of_8_billion_parameters() -> None:
    assert round(_parameters(shapes.QWEN3_8B) / 1e9, 1) == 8.2


def test_every_token_is_text(tmp_path: Path) -> None:
    """A reply whose tokens were no text would have nothing to send."""
    folder = shapes.make(tmp_path / "shaped", shapes.SMALL)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = shapes.SMALL["vocab_size"]
    assert len(tokenizer) == size
    assert tokenizer.eos_token_id == size - 1
    assert all(tokenizer.decode([number, number]) for number in range(size - 1))
    assert tokenizer.decode(tokenizer.encode("Once, upon a time.")) == "Once, upon a time."


def _parameters(shape: dict[str, int]) -> int:
    hidden, inner, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    queries, keys = shape["num_attention_heads"] * head, shape["num_key_value_heads"] * head
    layer = 2 * hidden + 2 * head + 2 * hidden * (queries + keys) + 3 * hidden * inner
    return 2 * shape["vocab_size"] * hidden + hidden + shape["num_hidden_layers"] * layer
