"""The tokenizers of the test models: byte-level BPE and the tokens with a role in each chat format.

The BPE sees no character beyond ASCII, so that any other character takes several tokens.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WINDOW = 4096
BPE_VOCABULARY = 512


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens with a role. Markers are single tokens that stay in decoded text, special ones do not."""

    end: str
    pad: str
    special: tuple[str, ...]
    markers: tuple[str, ...]
    begin: str | None = None


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOOL_MARKERS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
VOCABULARIES: dict[str, Vocabulary] = {
    "qwen3": Vocabulary("<|im_end|>", "<|endoftext|>", CHATML, ("<think>", "</think>", *TOOL_MARKERS)),
    "coder": Vocabulary(
        "<|im_end|>",
        "<|endoftext|>",
        CHATML,
        ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", *TOOL_MARKERS),
    ),
    "llama": Vocabulary(
        "<|eot_id|>",
        "<|end_of_text|>",
        (
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|eot_id|>",
            "<|python_tag|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
        ),
        (),
        begin="<|begin_of_text|>",
    ),
    "vision": Vocabulary(
        "<end_of_utterance>",
        "<|endoftext|>",
        (
            "<|endoftext|>",
            "<end_of_utterance>",
            "<image>",
            "<fake_token_around_image>",
            "<global-img>",
        ),
        (),
    ),
}


def learn_bpe(vocabulary: Vocabulary, texts: Iterable[str]) -> Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    marks = re.compile("|".join(map(re.escape, vocabulary.special + vocabulary.markers)) + r"|[^\x00-\x7f]+")
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((piece for text in texts for piece in marks.split(text)), trainer)
    bpe.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in vocabulary.special])
    bpe.add_tokens([AddedToken(each, special=False, normalized=False) for each in vocabulary.markers])
    if vocabulary.begin:
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{vocabulary.begin} $A",
            special_tokens=[(vocabulary.begin, bpe.token_to_id(vocabulary.begin))],
        )
    return bpe


def wrap(bpe: Tokenizer, vocabulary: Vocabulary, template: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=vocabulary.begin,
        eos_token=vocabulary.end,
        pad_token=vocabulary.pad,
        model_max_length=WINDOW,
    )
    tokenizer.chat_template = template
    return tokenizer
