"""The vocabulary of a model, from `tokenizer.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.catalogue.folder import ModelFolder, read_json
from app.catalogue.native import mistral_tokens
from app.core.errors import LoadFailed

KINDS = {"BPE": "gpt2", "WordPiece": "bert", "Unigram": "t5", "WordLevel": "word"}
"""How GGUF names the tokenizer models of `tokenizer.json`."""

MOST_TOKENS = 1 << 22
"""An id beyond that is a mistake, or made to fill the memory: the list of tokens has a place for each id."""

FIM = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<\uff5cfim▁begin\uff5c>", "<\uff5cfim▁hole\uff5c>", "<\uff5cfim▁end\uff5c>"),
)
"""Prefix, suffix and middle markers: Qwen and Granite, StarCoder, SantaCoder, Code Llama, DeepSeek."""

SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown", "cls": "cls", "sep": "seperator"}
"""Special tokens as transformers and as GGUF (which cannot spell) name them."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token ids by text, and what the tokenizer file says besides. Empty when there is no such file."""

    ids: Mapping[str, int] = field(default_factory=dict[str, int])
    kind: str = ""
    merges: tuple[str, ...] = ()

    @property
    def fim(self) -> tuple[str, str, str] | None:
        """The markers of fill-in-the-middle, where the vocabulary has all three."""
        return next((three for three in FIM if all(mark in self.ids for mark in three)), None)

    def tokens(self) -> list[str]:
        """Every token in the order of ids; ids without a token give an empty text."""
        last = max(self.ids.values(), default=-1)
        if last >= MOST_TOKENS:
            raise LoadFailed(f"its vocabulary has ids over {MOST_TOKENS}")
        texts = [""] * (last + 1)
        for text, number in self.ids.items():
            texts[number] = text
        return texts


def read_vocabulary(folder: ModelFolder) -> Vocabulary:
    """Read `tokenizer.json`, or at least the control tokens that `tekken.json` names, or the added ones that
    `tokenizer_config.json` lists.
    """
    file = read_json(folder.path / "tokenizer.json")
    if not file:
        if tokens := mistral_tokens(folder.path):
            return Vocabulary(tokens)
        added = folder.tokenizer_config.get("added_tokens_decoder") or {}
        return Vocabulary({token["content"]: int(number) for number, token in added.items()})
    model = file.get("model") or {}
    kind = str(model.get("type") or "")
    return Vocabulary(
        _ids(model) | {token["content"]: token["id"] for token in file.get("added_tokens") or ()},
        "llama" if kind == "BPE" and model.get("byte_fallback") else KINDS.get(kind, kind.lower()),
        tuple(rule if isinstance(rule, str) else " ".join(rule) for rule in model.get("merges") or ()),
    )


def tokenizer_info(folder: ModelFolder, vocabulary: Vocabulary) -> dict[str, Any]:
    """The `tokenizer.ggml.*` keys of `/api/show`."""
    if not vocabulary.kind:
        return {}
    info: dict[str, Any] = {
        "tokenizer.ggml.model": vocabulary.kind,
        "tokenizer.ggml.tokens": vocabulary.tokens(),
    }
    if vocabulary.merges:
        info["tokenizer.ggml.merges"] = list(vocabulary.merges)
    for name, ggml in SPECIAL.items():
        number = vocabulary.ids.get(_text(folder.tokenizer_config.get(f"{name}_token")))
        if number is not None:
            info[f"tokenizer.ggml.{ggml}_token_id"] = number
    if isinstance(add := folder.tokenizer_config.get("add_bos_token"), bool):
        info["tokenizer.ggml.add_bos_token"] = add
    return info


def _ids(model: Mapping[str, Any]) -> dict[str, int]:
    vocab = model.get("vocab") or {}
    if isinstance(vocab, dict):
        return dict(vocab)
    return {text: number for number, (text, _score) in enumerate(vocab)}


def _text(token: Any) -> str:
    """A special token, which may be written as a text or as an object around it."""
    return str(token.get("content") if isinstance(token, dict) else token)
