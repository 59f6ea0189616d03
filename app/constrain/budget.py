"""Owns what the reading of one schema may cost, and the questions that are put to llguidance meanwhile."""

import json
import re
from math import prod

from llguidance import LLMatcher

from app.constrain.matcher import accepts, gives_up_on_string, matcher_of, reason
from app.constrain.patterns import MAX_REPEAT, in_rust
from app.constrain.string_formats import regular
from app.constrain.types import JsonPointer, refusal
from app.core.request import Json

MAX_STEPS, FEW_STEPS = 150_000, 5_000
MAX_PATTERN = 4_096
"""Characters of one regular expression."""

_PATTERN_STEPS, _TEXT_STEPS = 600, 20
"""What it costs to compile a regular expression and to ask it about a text; a step is some 5 us."""

_COUNTS, _REPETITIONS = 20, 200
"""How many counts of a pattern are multiplied, and how many repetitions a step is for."""

_RULE_CHARS, _EXPRESSION_CHARS, _TEXT_CHARS = 4, 6, 16
"""Of the grammar's text for a step; llguidance is to compile it here and in the engine."""


def as_json(text: str) -> str:
    """The string as llguidance writes it: escapes where there must be, and for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class OverBudget(Exception):
    """The schema takes more steps than it was given, and may be given more."""


class Budget:
    """A budget of steps. What it refuses is refused whatever the machine's speed."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self._left = steps
        self._all = steps >= MAX_STEPS
        self._patterns: dict[str, str] = {}
        self._strings: set[str] = set()
        self._matchers: dict[str, LLMatcher] = {}
        self._answers: dict[tuple[str, str], bool] = {}

    def spend(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left < 0:
            raise (
                refusal((), "the schema takes more work to read than is allowed") if self._all else OverBudget
            )

    def spend_on_rule(self, chars: int) -> None:
        self.spend(2 + chars // _RULE_CHARS)

    def spend_on_terminal(self, source: str) -> None:
        chars = _EXPRESSION_CHARS if source.startswith("/") else _TEXT_CHARS
        self.spend(2 + len(source) // chars)

    def check_string(self, schema: dict[str, Json], place: JsonPointer) -> None:
        """Raises `InvalidRequest` where llguidance cannot honour the schema of a string."""
        source = json.dumps(schema, ensure_ascii=False)
        if source not in self._strings:
            self.spend(_PATTERN_STEPS + len(source) // 3)
            matcher = matcher_of(LLMatcher.grammar_from_json_schema(source))
            if matcher.is_error():
                raise refusal(place, f"the regular expression cannot be honoured: {reason(matcher)}")
            if gives_up_on_string(source, self.spend):
                raise refusal(place, "the regular expression takes too much work for each character")
            self._strings.add(source)

    def pattern(self, source: str, place: JsonPointer) -> str:
        """The pattern of a schema as one of llguidance's."""
        if len(source) > MAX_PATTERN:
            raise refusal(place, f"the regular expression is longer than {MAX_PATTERN} characters")
        if source not in self._patterns:
            self.spend(_PATTERN_STEPS + len(source) + _repetitions(source) // _REPETITIONS)
            self._patterns[source] = in_rust(regular(source), place)
            self.check_string(_string_of(self._patterns[source]), place)
        return self._patterns[source]

    def matches(self, pattern: str, text: str) -> bool:
        key = pattern, text
        if key not in self._answers:
            self.spend(_TEXT_STEPS + len(text) // 10)
            written = as_json(text).encode(errors="surrogatepass")
            self._answers[key] = accepts(self._matcher(pattern), written)
        return self._answers[key]

    def _matcher(self, pattern: str) -> LLMatcher:
        if pattern not in self._matchers:
            self.spend(_PATTERN_STEPS)
            grammar = LLMatcher.grammar_from_json_schema(_string_of(pattern))
            self._matchers[pattern] = matcher_of(grammar)
        return self._matchers[pattern]


def _string_of(pattern: str) -> dict[str, Json]:
    return {"type": "string", "pattern": pattern}


def _repetitions(pattern: str) -> int:
    """At most how often a part of the pattern is repeated: as if all counts were inside one another."""
    counts = re.findall(r"\{\d*,?(\d{1,7})\}", pattern)
    return min(prod(max(int(count), 1) for count in counts[:_COUNTS]), MAX_REPEAT)
