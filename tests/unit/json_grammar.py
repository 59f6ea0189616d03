"""The grammar that xgrammar makes of a prepared schema: what it accepts, and texts picked from it."""

import json
import random
from typing import Any

import numpy as np
import xgrammar
from xgrammar.testing import _is_grammar_accept_string  # pyright: ignore[reportPrivateUsage]

from app.engine.vllm.schema.prepare import prepare_schema

_STOP = 256
_BYTES = xgrammar.TokenizerInfo(
    [*(bytes([byte]) for byte in range(256)), b"</s>"],
    vocab_type=xgrammar.VocabType.RAW,
    stop_token_ids=[_STOP],
)
_COMPILER = xgrammar.GrammarCompiler(_BYTES, max_threads=1, cache_enabled=False)
_CLOSING = [ord(char) for char in '"]}']


class PreparedGrammar:
    """Raises `InvalidRequest` where the schema is refused."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema = prepare_schema(schema)
        self._compiled = _COMPILER.compile_json_schema(json.dumps(self.schema))

    def accepts(self, text: str) -> bool:
        return _is_grammar_accept_string(self._compiled.grammar, text)

    def sample(self, chooser: random.Random, longest: int = 300) -> str | None:
        """A text of the grammar, byte by byte; None where it grew too long or is no UTF-8.

        Lone surrogates are the one broken thing that xgrammar's own strings let through.
        """
        matcher, mask = xgrammar.GrammarMatcher(self._compiled), xgrammar.allocate_token_bitmask(1, _STOP + 1)
        text = bytearray()
        while len(text) < longest:
            matcher.fill_next_token_bitmask(mask, 0)
            bits = np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")
            allowed = [int(token) for token in np.flatnonzero(bits[: _STOP + 1])]
            assert allowed, f"the grammar leads into a dead end after {bytes(text)!r}"
            token = _chosen(allowed, chooser, len(text) / longest)
            if token == _STOP:
                return _decoded(text)
            assert matcher.accept_token(token)
            text.append(token)
        return None


def accepts_pattern(source: str, text: str) -> bool:
    """Whether xgrammar takes the JSON text for a string of that pattern."""
    schema = json.dumps({"type": "string", "pattern": source})
    return _is_grammar_accept_string(xgrammar.Grammar.from_json_schema(schema), text)


def _chosen(allowed: list[int], chooser: random.Random, haste: float) -> int:
    """Rather a readable byte than any other, and the sooner an end the longer the text is."""
    if _STOP in allowed and chooser.random() < 0.5:
        return _STOP
    closing = [token for token in allowed if token in _CLOSING]
    if closing and chooser.random() < 0.2 + haste:
        return chooser.choice(closing)
    readable = [token for token in allowed if 0x20 < token < 0x7F]
    return chooser.choice(readable if readable and chooser.random() < 0.9 else allowed)


def _decoded(text: bytearray) -> str | None:
    return None if b"\xed" in text else text.decode()
