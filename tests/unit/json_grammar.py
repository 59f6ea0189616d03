"""The grammar of a schema: what it accepts, and texts picked from it, byte by byte."""

import random
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from app.constrain.compile import grammar_for
from app.constrain.matcher import BYTES, accepts

_CLOSING = [*b'"]}']
_PIECES = [
    *('{"', '":', '": ', '",', '", "', '"}', "]}", "[{", "{}", "[]", ",\n", "\n  ", "\n    ", "  ", ' "'),
    *("\\n", '\\"', "\\\\", "true", "false", "null", "aa", "aaaa", "aaaaaaaa", 'a"', "é", "😀"),
    *("12", "000", "0.", "e+", "-1", "name"),
]


class _Vocabulary:
    """Single bytes and pieces that cross the borders of what a grammar is made of."""

    bos_token_id = None
    eos_token_id = 256
    special_token_ids = (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"</s>", *(piece.encode() for piece in _PIECES))

    def __call__(self, text: bytes | str) -> list[int]:
        """The longest piece each time, as what is forced must be written in the tokenizer's own way."""
        left, found = text if isinstance(text, bytes) else text.encode(), list[int]()
        while left:
            fitting = [at for at, piece in enumerate(self.tokens) if left.startswith(piece)]
            found.append(max(fitting, key=lambda at: len(self.tokens[at])))
            left = left[len(self.tokens[found[-1]]) :]
        return found


TOKENS = LLTokenizer(TokenizerWrapper(_Vocabulary()), n_vocab=len(_Vocabulary.tokens))
_STOP = _Vocabulary.eos_token_id


class PreparedGrammar:
    """Raises `InvalidRequest` where the schema is refused."""

    def __init__(self, schema: dict[str, Any] | None, tokens: LLTokenizer = BYTES) -> None:
        self.grammar = grammar_for(schema)
        self._tokens = tokens
        self.matcher = LLMatcher(tokens, LLMatcher.grammar_from_lark(self.grammar), log_level=0)
        assert not self.matcher.is_error(), self.matcher.get_error()

    def accepts(self, text: str) -> bool:
        return accepts(self.matcher, text.encode())

    def sample(self, chooser: random.Random, longest: int = 300) -> str | None:
        """A text of the grammar; None where it grew too long."""
        matcher, text = self.matcher.deep_copy(), bytearray()
        while len(text) < longest:
            allowed = allowed_tokens(matcher)
            assert allowed, f"the grammar leads into a dead end after {bytes(text)!r}"
            token = _chosen(allowed, chooser, len(text) / longest)
            if token == _STOP:
                return text.decode()
            assert matcher.consume_token(token), matcher.get_error()
            text += self._tokens.decode_bytes([token])
        return None


def allowed_tokens(matcher: LLMatcher) -> list[int]:
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    assert not matcher.is_error(), matcher.get_error()
    return [int(token) for token in np.flatnonzero(bits)]


def _chosen(allowed: list[int], chooser: random.Random, haste: float) -> int:
    """Rather a readable byte than any other, and the sooner an end the longer the text is."""
    if _STOP in allowed and chooser.random() < 0.5:
        return _STOP
    closing = [token for token in allowed if token in _CLOSING]
    if closing and chooser.random() < 0.2 + haste:
        return chooser.choice(closing)
    readable = [token for token in allowed if 0x20 < token < 0x7F]
    return chooser.choice(readable if readable and chooser.random() < 0.9 else allowed)
