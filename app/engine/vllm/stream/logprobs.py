"""Log-probabilities with the true bytes of each token, which may be half a character."""

import re
from functools import cached_property, partial
from typing import Any

import xgrammar
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from vllm.outputs import CompletionOutput
from vllm.utils.mistral import is_mistral_tokenizer

from app.core.events import TokenLogprob

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """Bytes of every token of a vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _vocabulary(self) -> list[bytes]:
        if is_mistral_tokenizer(self._tokenizer):
            return _of_mistral(self._tokenizer)
        # No end token is asked for: given any, xgrammar looks for none, and warns of none missing.
        return xgrammar.TokenizerInfo.from_huggingface(self._tokenizer, stop_token_ids=[0]).decoded_vocab

    def read(self) -> None:
        """Takes a moment, for which the event loop need not stand."""
        _ = self._vocabulary

    def of(self, token_id: int) -> bytes:
        """The token's bytes; b"" for an id the vocabulary does not have."""
        return self._vocabulary[token_id] if token_id < len(self._vocabulary) else b""

    def logprobs(self, piece: CompletionOutput) -> list[TokenLogprob]:
        """One entry per token of `piece`; `top` holds the alternatives the engine reported, best first."""
        found: list[TokenLogprob] = []
        rows: Any = piece.logprobs
        for token_id, row in zip(piece.token_ids, rows, strict=False):
            chosen = self._entry(token_id, row[token_id].logprob)
            ranked = sorted(row.items(), key=lambda item: item[1].rank or 0)
            chosen.top = [self._entry(other, value.logprob) for other, value in ranked]
            found.append(chosen)
        return found

    def _entry(self, token_id: int, logprob: float) -> TokenLogprob:
        data = self.of(token_id)
        return TokenLogprob(data.decode("utf-8", "replace"), logprob, data)


def _of_mistral(tokenizer: Any) -> list[bytes]:
    """The vocabulary of Mistral's own tokenizer, which xgrammar does not know."""
    inner, special = tokenizer.tokenizer, set(tokenizer.all_special_ids)
    if tokenizer.is_tekken:
        plain = partial(inner.id_to_byte_piece, special_token_policy=SpecialTokenPolicy.KEEP)
    else:
        plain = partial(_of_piece, inner)
    return [
        inner.id_to_piece(token_id).encode() if token_id in special else plain(token_id)
        for token_id in range(len(tokenizer))
    ]


def _of_piece(inner: Any, token_id: int) -> bytes:
    """A piece of sentencepiece: a byte by its number, or text with another sign for space."""
    piece: str = inner.id_to_piece(token_id)
    if byte := _BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    return piece.replace("\u2581", " ").encode()
