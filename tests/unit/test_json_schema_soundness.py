"""Whatever schema is let through, no text that its grammar accepts breaks the schema as it was sent."""

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from llguidance import LLMatcher

from app.constrain.compile import grammar_for
from app.core.errors import InvalidRequest
from tests.unit.json_grammar import TOKENS, PreparedGrammar, allowed_tokens

pytestmark = [pytest.mark.row("A7"), pytest.mark.point(92)]

Schema = dict[str, Any]

WORDS = ["a", "b", "ab", "é", "", "kind", 'q"', "x-1"]
PATTERNS = [
    "^a",
    "b$",
    "^[a-c]+$",
    "^x{2,3}$",
    "a|b",
    "^(ab*)?$",
    "^(ab)*$",
    "[0-9]{2}",
    r"^\d+(\.\d+)?$",
    "^.{2,4}$",
    "^[^a]$",
    r"\s",
    '^"',
    r"^\w+@\w+$",
    r"^[\^\]-]+$",
    "^$",
    ".",
    "^([a-z]+-?){1,3}$",
    r"^\\$",
    "^(é|[^é]b)+$",
]
FORMATS = [
    "date",
    "time",
    "uuid",
    "email",
    "ipv4",
    "ipv6",
    "uri",
    "hostname",
    "json-pointer",
    "no-such-format",
]
TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"]
COUNTS = st.integers(0, 4)
LIMITS = st.sampled_from([0, 1, 2, 3, 5, 10, -3, 0.5, 1.25, 0.3, -0.1, 1e-7, 99999, 12345.678, 2**40])

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 2, 5, -1, 100, 0.5, 0.1, -2.25, 1e-7, 3.0, 1e22])
    | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=2),
    max_leaves=4,
)


def _optional(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    return st.fixed_dictionaries({}, optional=keywords)


def _with(schema: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One level more around the schemas of a strategy."""
    some = st.lists(schema, min_size=1, max_size=2)
    children = st.dictionaries(st.sampled_from(WORDS), schema, min_size=1, max_size=3)
    bound_to_types = {
        "number": _optional(
            minimum=LIMITS,
            maximum=LIMITS,
            exclusiveMinimum=LIMITS,
            exclusiveMaximum=LIMITS,
            multipleOf=st.integers(1, 4),
        ),
        "string": _optional(
            minLength=COUNTS,
            maxLength=COUNTS,
            pattern=st.sampled_from(PATTERNS),
            format=st.sampled_from(FORMATS),
        ),
        "array": _optional(
            items=schema,
            prefixItems=some,
            minItems=COUNTS,
            maxItems=COUNTS,
            uniqueItems=st.booleans(),
            contains=schema,
        ),
        "object": _optional(
            properties=children,
            required=st.lists(st.sampled_from(WORDS), max_size=2, unique=True),
            additionalProperties=schema,
            patternProperties=st.dictionaries(st.sampled_from(PATTERNS), schema, max_size=1),
            propertyNames=st.sampled_from([{"enum": ["a", "b"]}, {"pattern": "^a"}, {"maxLength": 2}]),
            minProperties=COUNTS,
            maxProperties=COUNTS,
            unevaluatedProperties=st.booleans(),
            dependentRequired=st.just({"a": ["b"]}),
        ),
    }
    combining = _optional(
        anyOf=some,
        allOf=some,
        oneOf=some,
        enum=st.lists(VALUES, min_size=1, max_size=3),
        const=VALUES,
        **{
            "$ref": st.sampled_from(["#", "#/$defs/x", "#/$defs/y"]),
            "not": schema,
            "if": schema,
            "then": schema,
        },
    )

    def merged(name: str) -> st.SearchStrategy[Schema]:
        own = bound_to_types.get("number" if name == "integer" else name, st.just({}))
        typed = st.sampled_from([{"type": name}, {"type": name}, {"type": [name, "null"]}, {}])
        few = combining.map(lambda keywords: dict(list(keywords.items())[:1]))
        return st.tuples(typed, own, few | st.just({})).map(lambda parts: parts[0] | parts[1] | parts[2])

    return st.sampled_from(TYPES).flatmap(merged)


LEAVES = st.sampled_from([True, False, {}, *({"type": name} for name in TYPES)])
SCHEMAS = _with(_with(LEAVES | _with(LEAVES)))
ROOTS = st.builds(lambda root, x, y: root | {"$defs": {"x": x, "y": y}}, SCHEMAS, SCHEMAS, _with(LEAVES))
SETTINGS = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def _prepared(schema: Schema) -> PreparedGrammar | None:
    try:
        return PreparedGrammar(schema)
    except InvalidRequest:
        return None


def _meant(schema: Any) -> Any:
    """The schema as it is taken: an overlapping `oneOf` is a choice, and not every set can be kept one."""
    if isinstance(schema, list):
        return [_meant(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    meant = {key: _meant(value) for key, value in schema.items() if key != "uniqueItems"}
    if "oneOf" in meant:
        meant["allOf"] = [*meant.get("allOf", ()), {"anyOf": meant.pop("oneOf")}]
    return meant


def _valid(schema: Schema, text: str) -> bool:
    try:
        return Draft202012Validator(_meant(schema)).is_valid(json.loads(text))
    except RecursionError:  # the validator's own, on a schema that includes itself in a branch not taken
        return True


def test_every_text_of_the_grammar_is_valid() -> None:
    taken: list[bool] = []
    ended: list[bool] = []
    accepted: list[bool] = []

    @SETTINGS
    @given(ROOTS, st.integers(0, 2**32), VALUES)
    def judge(schema: Schema, seed: int, value: Any) -> None:
        grammar = _prepared(schema)
        taken.append(grammar is not None)
        if grammar is None:
            return
        chooser = random.Random(seed)
        for _ in range(5):
            text = grammar.sample(chooser)
            ended.append(text is not None)
            assert text is None or _valid(schema, text), text
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        accepted.append(grammar.accepts(text))
        assert not accepted[-1] or _valid(schema, text)

    judge()
    # If every schema were refused, or no text came to its end, the rest would hold as well.
    assert share(taken) > 0.3
    assert share(ended) > 0.9
    assert share(accepted) > 0.2


def share(true: list[bool]) -> float:
    return sum(true) / len(true)


WHOLE = st.integers(-(2**63), 2**63)
FIELDS: list[tuple[Schema, st.SearchStrategy[Any]]] = [
    ({"type": "string"}, st.text(st.characters(codec="utf-8"), max_size=9)),
    ({"type": "string", "minLength": 1}, st.text('aé"\n\\', min_size=1, max_size=9)),
    ({"type": "string", "maxLength": 300}, st.text('aé"\n\\ 😀', max_size=300)),
    ({"type": "string", "minLength": 140, "maxLength": 2083}, st.text('a"\n\\', min_size=140, max_size=400)),
    ({"type": "string", "pattern": "^[^x]*$", "maxLength": 200}, st.text('aé" \\', max_size=200)),
    ({"type": "string", "format": "date"}, st.dates().map(str)),
    ({"type": "number", "minimum": -1.5, "maximum": 1e6}, st.integers(-1500, 10**9).map(lambda n: n / 1000)),
    (
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True},
        st.sets(st.sampled_from("abc")).map(sorted),
    ),
    (
        {"oneOf": [{"type": "array", "items": {"type": "boolean"}}, {"type": "object"}]},
        st.lists(st.booleans()) | st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=3),
    ),
    ({"type": "integer", "minimum": -5, "maximum": 300}, st.integers(-5, 300)),
    ({"type": "number"}, st.floats(-1e307, 1e307).filter(lambda number: abs(number) > 1e-300)),
    ({"type": "boolean"}, st.booleans()),
    ({"enum": ["x", 'y"', None, 2.5]}, st.sampled_from(["x", 'y"', None, 2.5])),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 3}, st.lists(WHOLE, max_size=3)),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, st.none() | WHOLE),
    ({}, VALUES),
]
MODELS = st.dictionaries(st.sampled_from(["name", "é", "tags", ""]), st.sampled_from(FIELDS), min_size=1)


LAYOUTS: list[dict[str, Any]] = [{"separators": (",", ":")}, {}, {"indent": 2}, {"indent": "\t"}]


@settings(SETTINGS, max_examples=100)
@given(MODELS, st.sampled_from(LAYOUTS), st.data())
def test_a_valid_document_passes_token_by_token(
    model: dict[str, Any], layout: dict[str, Any], data: st.DataObject
) -> None:
    """A mask may let through what the matcher refuses, or refuse the escapes of a bounded string."""
    schema = {"type": "object", "properties": {name: field[0] for name, field in model.items()}}
    value = {name: data.draw(field[1]) for name, field in model.items()}
    text = json.dumps(value, ensure_ascii=False, **layout).replace("\x7f", "\\u007f").encode()
    grammar = grammar_for({**schema, "required": list(model)})
    matcher = LLMatcher(TOKENS, LLMatcher.grammar_from_lark(grammar), log_level=0)
    for token in TOKENS.tokenize_bytes(text):
        assert token in allowed_tokens(matcher), (text, TOKENS.decode_bytes([token]))
        assert matcher.consume_token(token), matcher.get_error()
    assert matcher.is_accepting()


def test_whatever_the_mask_lets_through_ends_as_a_valid_document() -> None:
    ended: list[bool] = []

    @settings(SETTINGS, max_examples=100)
    @given(MODELS, st.randoms(use_true_random=False))
    def judge(model: dict[str, Any], chooser: random.Random) -> None:
        schema = {"type": "object", "properties": {name: field[0] for name, field in model.items()}}
        text = PreparedGrammar(schema, TOKENS).sample(chooser, longest=600)
        ended.append(text is not None)
        assert text is None or _valid(schema, text)

    judge()
    assert share(ended) > 0.9


def test_documents_are_cut_into_more_than_bytes() -> None:
    text = json.dumps({"name": "aaa\n", "tags": [True, False]}, indent=2).encode()
    assert len(TOKENS.tokenize_bytes(text)) < len(text) / 1.5
