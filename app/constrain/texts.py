"""Owns constraints that are no JSON Schema: one of a list of texts, and a regular expression."""

from collections.abc import Sequence

from llguidance import LLMatcher

from app.constrain.budget import MAX_STEPS, Budget
from app.constrain.grammar import literal
from app.constrain.matcher import accepts, gives_up, matcher_of, reason
from app.constrain.patterns import in_rust
from app.core.errors import InvalidRequest
from app.core.request import Constraint

_HEAD = "%llguidance {}\n"
_LONGEST_CHECKED = 64 << 10
"""Characters of an answer that are read once more at its end."""


def grammar_of_choices(choices: Sequence[str]) -> str:
    """The grammar of the answers that are one of `choices`."""
    return f"{_HEAD}start: {' | '.join(map(literal, dict.fromkeys(choices)))}\n"


def grammar_of_regex(pattern: str) -> str:
    """The grammar of the answers that are, from end to end, what `pattern` says in ECMA-262's dialect.

    Raises:
        InvalidRequest: for what is no such expression, matches no text, or is too much work.
    """
    bare = pattern.removeprefix("^")
    if bare.endswith("$") and not (len(bare) - len(bare.rstrip("$")) > 1 or bare.endswith("\\$")):
        bare = bare[:-1]
    try:
        written = in_rust(bare, ())
    except InvalidRequest as error:
        raise InvalidRequest(f"invalid regex: {str(error).rpartition(': ')[2]}") from None
    grammar = f"{_HEAD}start: /{written}/\n" if written else f'{_HEAD}start: ""\n'
    matcher = matcher_of(LLMatcher.grammar_from_lark(grammar))
    if matcher.is_error():
        raise InvalidRequest(f"invalid regex: {reason(matcher)}")
    if gives_up(matcher, Budget(MAX_STEPS).spend):
        raise InvalidRequest("invalid regex: it is more work than a token may take")
    return grammar


def is_whole(constraint: Constraint, text: str) -> bool:
    """Whether an answer that ended by itself is all that it had to be; of a very long one it is taken to be.

    `constraint` is one of texts, with its grammar.
    """
    if constraint.choices:
        return text in constraint.choices
    if len(text) > _LONGEST_CHECKED:
        return True
    return accepts(matcher_of(LLMatcher.grammar_from_lark(constraint.grammar)), text.encode())
