"""Owns what a JSON Schema in `format` becomes: a grammar that keeps to the schema, or a refusal.

size -> nulls -> metaschema -> normalize -> emit -> prune -> grammar -> matcher
"""

from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher

from app.constrain import grammar as text_of
from app.constrain.budget import MAX_STEPS, Budget
from app.constrain.emit import Emitter
from app.constrain.grammar import ANY_OBJECT
from app.constrain.matcher import gives_up, matcher_of, reason
from app.constrain.metaschema import check_metaschema
from app.constrain.normalize import Normalizer
from app.constrain.nulls import without_nulls
from app.constrain.prune import prune
from app.constrain.texts import grammar_of_choices, grammar_of_regex
from app.constrain.types import refusal
from app.core.request import Constraint, Json

MAX_DEPTH = 64
"""Objects and arrays inside one another."""

MAX_NODES = 5_000
MAX_TEXT = 262_144
"""Characters of all strings and keys together."""


def written(wanted: Constraint, steps: int = MAX_STEPS) -> str:
    """The grammar of the answers that a constraint allows.

    Raises:
        InvalidRequest: with the reason, for what cannot be honoured.
        OverBudget: as `grammar_for`.
    """
    if wanted.choices:
        return grammar_of_choices(wanted.choices)
    if wanted.regex is not None:
        return grammar_of_regex(wanted.regex)
    return grammar_for(wanted.schema, steps)


def grammar_for(schema: Mapping[str, Json] | None, steps: int = MAX_STEPS) -> str:
    """The grammar of the answers to `schema`, or of any JSON object where there is none.

    Formats that JSON Schema does not define and keywords of no draft are annotations and are dropped.

    Raises:
        InvalidRequest: with the place and the reason, for what cannot be honoured.
        OverBudget: where that takes more than `steps`, and more are to be had.
    """
    if schema is None:
        return ANY_OBJECT
    _check_size(schema)
    wanted = without_nulls(schema)
    budget = Budget(steps)
    check_metaschema(wanted, (), budget)
    emitter = Emitter(Normalizer(wanted, budget))
    body, definitions = prune(*emitter.root())
    if isinstance(body, bool):
        raise emitter.dead_end or refusal((), "no value can satisfy the schema")
    grammar = text_of.written(body, definitions, budget)
    matcher = matcher_of(LLMatcher.grammar_from_lark(grammar))
    if matcher.is_error():
        raise refusal((), f"the grammar is refused: {reason(matcher)}")
    if gives_up(matcher, budget.spend):
        raise refusal((), "the schema leaves more open at one place of an answer than can be followed")
    return grammar


def _check_size(schema: Mapping[str, Json]) -> None:
    level: list[Any] = [schema]
    nodes = text = depth = 0
    while level:
        depth += 1
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                inner += node.values()
                text += sum(len(key) for key in node)
            elif isinstance(node, list):
                inner += node
            elif isinstance(node, str):
                text += len(node)
        nodes += len(inner)
        if nodes > MAX_NODES or text > MAX_TEXT:
            raise refusal((), f"the schema is larger than {MAX_NODES} values or {MAX_TEXT} characters")
        if depth > MAX_DEPTH and any(isinstance(node, dict | list) for node in level):
            raise refusal((), f"objects and arrays nest more than {MAX_DEPTH} levels deep")
        level = inner
