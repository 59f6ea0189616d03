"""Log-probabilities with the true bytes of each token, which may be half a character."""

from functools import cached_property
from typing import Any

import xgrammar
from vllm.outputs import CompletionOutput

from app.core.events import TokenLogprob


class TokenBytes:
    """Bytes of every token of a vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _vocabulary(self) -> list[bytes]:
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
