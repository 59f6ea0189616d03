"""Owns what the reading of one schema may cost, and the questions that are put to llguidance meanwhile."""

import json

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from app.constrain.types import JsonPointer, refusal
from app.core.request import Json

MAX_STEPS = 150_000
MAX_PATTERN = 4_096
"""Characters of one regular expression."""

_PATTERN_STEPS, _TEXT_STEPS = 400, 20
"""What it costs to compile a regular expression and to ask it about a text; a step is some 5 us."""

_RULE_CHARS, _TERMINAL_CHARS = 4, 16
"""Of the grammar's text for a step; llguidance is to compile it here and in the engine."""

_END = 256
_LONGEST = 200


class _Bytes:
    """A vocabulary of the single bytes, so that a grammar can be asked about any text."""

    bos_token_id = None
    eos_token_id = _END
    special_token_ids = (_END,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"</s>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


BYTES = LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=_END + 1)


def accepts(matcher: LLMatcher, text: bytes) -> bool:
    """Whether the whole text is of the grammar; the matcher stays as it was."""
    asked = matcher.deep_copy()
    return asked.try_consume_tokens(list(text)) == len(text) and asked.is_accepting()


def as_json(text: str) -> str:
    """The string as llguidance writes it: escapes where there must be, and for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class Budget:
    """A budget of steps. What it refuses is refused whatever the machine's speed."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self._left = steps
        self._strings: dict[str, LLMatcher] = {}
        self._answers: dict[tuple[str, str], bool] = {}

    def spend(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left < 0:
            raise refusal((), "the schema takes more work to read than is allowed")

    def spend_on_rule(self, chars: int) -> None:
        self.spend(2 + chars // _RULE_CHARS)

    def spend_on_terminal(self, chars: int) -> None:
        self.spend(2 + chars // _TERMINAL_CHARS)

    def check_string(self, schema: dict[str, Json], place: JsonPointer) -> LLMatcher:
        """The matcher of a string schema; raises `InvalidRequest` where llguidance cannot honour it."""
        source = json.dumps(schema, ensure_ascii=False)
        if source in self._strings:
            return self._strings[source]
        self.spend(_PATTERN_STEPS + len(source) // 10)
        matcher = LLMatcher(BYTES, LLMatcher.grammar_from_json_schema(source), log_level=0)
        if matcher.is_error():
            raise refusal(place, f"the regular expression cannot be honoured: {reason(matcher)}")
        self._strings[source] = matcher
        return matcher

    def check_pattern(self, pattern: str, place: JsonPointer) -> LLMatcher:
        if len(pattern) > MAX_PATTERN:
            raise refusal(place, f"the regular expression is longer than {MAX_PATTERN} characters")
        return self.check_string({"type": "string", "pattern": pattern}, place)

    def matches(self, pattern: str, text: str) -> bool:
        key = pattern, text
        if key not in self._answers:
            self.spend(_TEXT_STEPS + len(text) // 10)
            written = as_json(text).encode(errors="surrogatepass")
            self._answers[key] = accepts(self.check_pattern(pattern, ()), written)
        return self._answers[key]


def reason(matcher: LLMatcher) -> str:
    """What llguidance says, without the picture of the place and the text of the schema."""
    lines = [line.strip() for line in matcher.get_error().splitlines() if line.strip()]
    said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
    if not said:
        said = lines[0].removeprefix("failed to compile JSON schema: ") if lines else "no reason given"
    return said[:_LONGEST]
