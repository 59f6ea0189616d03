"""What the small files of others may count: what vLLM and transformers make in the server of a number."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from app.catalogue import foreign, foreignsizes
from app.catalogue.foreignsizes import MOST_COUNT, MOST_SIDE
from app.core.errors import BadManifest
from tests.unit.catalogue_folders import LLAMA, make_folder

MANY = 10**11
QWEN_PICTURES = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "patch_size": 16,
}


@pytest.mark.parametrize(
    "files",
    [
        {
            "config.json": {
                **LLAMA,
                "vocab_size": 262144,
                "rope_theta": 1e11,
                "max_position_embeddings": 10485760,
            }
        },
        {"config.json": {**LLAMA, "num_parameters": 7_000_000_000, "vision_config": {"image_size": 1540}}},
        {"config.json": {**LLAMA, "image_token_id": 151655, "mm_tokens_per_image": 256}},
        {"preprocessor_config.json": QWEN_PICTURES},
        {"preprocessor_config.json": {"min_pixels": 3136, "max_pixels": 12845056, "size": 224}},
        {"processor_config.json": {"image_token_id": 151655, "processor_class": "Gemma3Processor"}},
        {"preprocessor_config.json": {"n_samples": 480_000, "nb_max_frames": 3_000, "sampling_rate": 16_000}},
        {"processor_config.json": {"image_processor": {"size": {"height": 896, "width": 896}}}},
        {
            "tokenizer_config.json": {
                "model_max_length": 10**30,
                "extra_ids": 100,
                "pad_token_id": 151643,
                "added_tokens_decoder": {"151643": {"content": "<|endoftext|>"}},
                "additional_special_tokens": ["100000000", "<a>"],
                "fast_tokenizer_files": ["tokenizer.json"],
            }
        },
        {"added_tokens.json": {"<a>": 262144}},
    ],
)
def test_what_models_count_is_taken(tmp_path: Path, files: dict[str, Any]) -> None:
    foreign.check(make_folder(tmp_path, files=files))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"config.json": {**LLAMA, "num_hidden_layers": MANY}}, "num_hidden_layers is 100000000000"),
        ({"config.json": {**LLAMA, "num_hidden_layers": str(MANY)}}, "num_hidden_layers"),
        ({"config.json": {**LLAMA, "num_hidden_layers": 1e300}}, r"num_hidden_layers is 1e\+300, and"),
        ({"config.json": {**LLAMA, "text_config": {"n_layer": MANY}}}, "n_layer"),
        ({"config.json": {**LLAMA, "num_labels": MOST_COUNT + 1}}, "num_labels"),
        ({"config.json": {**LLAMA, "vision_config": {"depths": [2, MANY]}}}, "depths"),
        ({"config.json": {**LLAMA, "vision_config": {"image_size": [MOST_SIDE + 1, 1]}}}, "image_size"),
        ({"config.json": {**LLAMA, "image_grid_pinpoints": [[336, MANY]]}}, "image_grid_pinpoints"),
        ({"config.json": {**LLAMA, "max_dynamic_patch": 129}}, "max_dynamic_patch"),
        ({"params.json": {"n_layers": MANY}}, "n_layers"),
        ({"config.json": {**LLAMA, "mm_tokens_per_image": MANY}}, "mm_tokens_per_image"),
        ({"config.json": {**LLAMA, "image_seq_length": MANY}}, "image_seq_length"),
        ({"processor_config.json": {"image_seq_len": MANY}}, "image_seq_len"),
        ({"preprocessor_config.json": {"size": MANY}}, "size"),
        ({"preprocessor_config.json": {"size": {"shortest_edge": 65536}}}, "shortest_edge"),
        ({"preprocessor_config.json": {"min_pixels": MANY}}, "min_pixels"),
        ({"preprocessor_config.json": {**QWEN_PICTURES, "size": {"shortest_edge": MANY}}}, "shortest_edge"),
        (
            {"processor_config.json": {"image_processor": QWEN_PICTURES, "video_processor_type": "Clip"}},
            "longest_edge",
        ),
        ({"tokenizer_config.json": {"tokenizer_class": "T5Tokenizer", "extra_ids": MANY}}, "extra_ids"),
        ({"tokenizer_config.json": {"init_inputs": [MANY]}}, "init_inputs"),
        (
            {"tokenizer_config.json": {"extra_special_tokens": ["a"] * (MOST_COUNT + 1)}},
            "the number of extra",
        ),
        ({"tokenizer_config.json": {"added_tokens_decoder": {str(MANY): {}}}}, "added_tokens_decoder"),
        ({"tokenizer_config.json": {"fast_tokenizer_files": ["tokenizer.4.0.json"]}}, "another tokenizer"),
        ({"special_tokens_map.json": {"extra_ids": MANY}}, "extra_ids"),
        ({"added_tokens.json": {"<a>": MANY}}, "added_tokens.json: <a>"),
    ],
)
def test_what_would_be_made_of_a_number_has_a_bound(
    tmp_path: Path, files: dict[str, Any], reason: str
) -> None:
    """M25: lists of labels, layers and extra tokens, and pictures, that fill the server's memory."""
    with pytest.raises(BadManifest, match=reason):
        foreign.check(make_folder(tmp_path, files=files))


def test_what_the_server_reads_whole_has_a_bound(tmp_path: Path) -> None:
    """M25: a tokenizer in another format than `tokenizer.json` had any size."""
    folder = make_folder(tmp_path)
    for name, is_taken in (("x.safetensors", True), ("tokenizer.model", False), ("spiece.spm", False)):
        with (folder / name).open("wb") as file:
            os.truncate(file.fileno(), foreignsizes.MOST_JSON_BYTES + 1)
        if is_taken:
            foreign.check(folder)
            continue
        with pytest.raises(BadManifest, match=f"{name}: its size"):
            foreign.check(folder)
        (folder / name).unlink()


@pytest.mark.filterwarnings("ignore")
def test_transformers_makes_what_is_counted_of_it(tmp_path: Path) -> None:
    """Else there is nothing to bound any more."""
    from transformers import AutoConfig, AutoTokenizer

    counting = {
        "special_tokens_map.json": {"extra_ids": 7},
        "tokenizer_config.json": {"tokenizer_class": "ByT5Tokenizer"},
    }
    folder = make_folder(tmp_path / "counts", {**LLAMA, "num_labels": 5}, files=counting)
    assert AutoConfig.from_pretrained(folder).num_labels == 5
    assert len(AutoTokenizer.from_pretrained(folder).get_added_vocab()) >= 7

    naming = {"tokenizer_config.json": {"fast_tokenizer_files": ["tokenizer.4.0.json"]}}
    other = make_folder(tmp_path / "other", files=naming)
    vocab = {"type": "BPE", "vocab": {"<other>": 0}, "merges": []}
    (other / "tokenizer.4.0.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "model": vocab})
    )
    assert AutoTokenizer.from_pretrained(other).get_vocab() == {"<other>": 0}
