"""A tiny Idefics3 with random weights: it sees pictures and answers nonsense, always the same.

Idefics3 because its image processor needs only PIL. A picture takes `IMAGE_TOKENS` and three marker tokens.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from harness.models.tokens import VOCABULARIES, WINDOW, learn_bpe, wrap

IMAGE_SIDE = 32
PATCH_SIDE = 8
SCALE = 2
IMAGE_TOKENS = (IMAGE_SIDE // PATCH_SIDE // SCALE) ** 2
LAYERS: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}
"""The spread of the weights is wide enough for a picture to matter to what is written."""


def make_processor() -> Idefics3Processor:
    template = Path(__file__).with_suffix(".jinja").read_text()
    tokenizer = wrap(learn_bpe(VOCABULARIES["vision"], ()), VOCABULARIES["vision"], template)
    side = {"longest_edge": IMAGE_SIDE}
    images = Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False)
    return Idefics3Processor(images, tokenizer, image_seq_len=IMAGE_TOKENS, chat_template=template)


def make_model(processor: Idefics3Processor) -> Any:
    tokenizer: Any = processor.tokenizer
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = (
        LAYERS
        | tokens
        | {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "num_key_value_heads": 1,
            "head_dim": 32,
            "max_position_embeddings": WINDOW,
            "bos_token_id": None,
        }
    )
    config = Idefics3Config(
        text_config=text,
        vision_config=LAYERS | {"image_size": IMAGE_SIDE, "patch_size": PATCH_SIDE},
        scale_factor=SCALE,
        image_token_id=processor.image_token_id,
        dtype="float32",
        **tokens,
    )
    return Idefics3ForConditionalGeneration(config)


def write(folder: Path) -> None:
    torch.manual_seed(0)
    processor = make_processor()
    make_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[2]))
