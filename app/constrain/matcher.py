"""Owns what llguidance is asked before an engine is: whether it takes a grammar, and how far it gets with it.

It bounds the work of each token, and what it finds too much ends an answer in its middle. So a grammar is
walked along a few texts of its own, with less work allowed than in the engine, whose tokens are longer.
"""

import random
from collections.abc import Callable

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

_LIMITS, _STRING_LIMITS = (
    LLParserLimits(max_items_in_row=1_600, step_lexer_fuel=fuel, step_max_items=20_000, verbose_errors=False)
    for fuel in (50_000, 40_000)
)
"""Of a grammar, and of one string by itself. The engine's are llguidance's own: 2,000, 200,000 and 50,000."""

_WALKS, _LONGEST, _LONGEST_STRING = 4, 100, 100
_STEPS = 3
_LONGEST_REASON = 200
_OURS = {
    "panic": "it is more than can be compiled",
    "lookarounds not supported": '"^" and "$" are supported only where the text begins and ends',
    "Unsatisfiable": "no text satisfies it",
    "Unable to determine": "it takes too much work to find out whether any text satisfies all of it",
}
"""What is said in llguidance's words only of its own affairs."""

_ENDING = 0.2
"""How often a string ends where it may."""

END = 256

_OPENING, _COMMA, _QUOTE, _PLAIN = (
    sum(1 << byte for byte in text) for text in (b"[{", b",", b'"', b" abcdefghijklmnopqrstuvwxyz")
)


class _Bytes:
    """A vocabulary of the single bytes, so that a grammar can be asked about any text."""

    bos_token_id = None
    eos_token_id = END
    special_token_ids = (END,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"</s>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


BYTES = LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=END + 1, slices=[])


def accepts(matcher: LLMatcher, text: bytes) -> bool:
    """Whether the whole text is of the grammar; the matcher stays as it was."""
    asked = matcher.deep_copy()
    return asked.try_consume_tokens(list(text)) == len(text) and asked.is_accepting()


def matcher_of(grammar: str) -> LLMatcher:
    return LLMatcher(BYTES, grammar, log_level=0, limits=_LIMITS)


def gives_up(matcher: LLMatcher, spend: Callable[[int], None]) -> bool:
    """Whether the matcher does, along a few texts of its grammar; it stays as it was."""
    return any(
        _walk(matcher.deep_copy(), random.Random(seed), spend, _LONGEST, _ENDING) for seed in range(_WALKS)
    )


def gives_up_on_string(schema: str, spend: Callable[[int], None]) -> bool:
    """Whether a matcher does, along a text of letters that stands after something else, as most do."""
    grammar = LLMatcher.grammar_from_lark(f"start: BEFORE string\nBEFORE: /:[ ]?/\nstring: %json {schema}\n")
    matcher = LLMatcher(BYTES, grammar, log_level=0, limits=_STRING_LIMITS)
    return not matcher.consume_token(ord(":")) or _walk(matcher, random.Random(0), spend, _LONGEST_STRING, 0)


def _walk(
    matcher: LLMatcher, chooser: random.Random, spend: Callable[[int], None], longest: int, ending: float
) -> bool:
    for _ in range(longest):
        spend(_STEPS)
        allowed = int.from_bytes(matcher.compute_bitmask(), "little") & ~(1 << END)
        if matcher.is_error():
            return True
        if not allowed:
            return False
        if not matcher.consume_token(_chosen(allowed, chooser, ending)):
            return True
    return False


def _chosen(allowed: int, chooser: random.Random, ending: float) -> int:
    """Rather what begins or goes on than what ends, and letters rather than other characters."""
    for preferred, chance in ((_OPENING, 0.7), (_COMMA, 0.8), (_QUOTE, ending), (_PLAIN, 0.95)):
        if allowed & preferred and chooser.random() < chance:
            return _one_of(allowed & preferred, chooser)
    return _one_of(allowed, chooser)


def _one_of(bits: int, chooser: random.Random) -> int:
    for _ in range(chooser.randrange(bits.bit_count())):
        bits &= bits - 1
    return (bits & -bits).bit_length() - 1


def reason(matcher: LLMatcher) -> str:
    """What llguidance says, without the picture of the place and the text of the schema."""
    lines = [line.strip() for line in matcher.get_error().splitlines() if line.strip()]
    said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
    if not said:
        said = lines[0].removeprefix("failed to compile JSON schema: ") if lines else "no reason given"
    for theirs, ours in _OURS.items():
        if theirs in said:
            return ours
    return said[:_LONGEST_REASON]
