"""Whatever schema is let through, no text that its grammar accepts breaks the schema as it was sent."""

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from app.core.errors import InvalidRequest
from app.engine.vllm.schema.language import matches
from app.engine.vllm.schema.pattern import PatternError, parse
from app.engine.vllm.schema.regex import spell
from tests.unit.json_grammar import PreparedGrammar, accepts_pattern

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
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def _prepared(schema: Schema) -> PreparedGrammar | None:
    try:
        return PreparedGrammar(schema)
    except InvalidRequest:
        return None


def _valid(schema: Schema, text: str) -> bool:
    try:
        return Draft202012Validator(schema).is_valid(json.loads(text))
    except RecursionError:  # the validator's own, on a schema that includes itself in a branch not taken
        return True


@SETTINGS
@given(ROOTS, st.integers(0, 2**32))
def test_every_text_of_the_grammar_is_valid(schema: Schema, seed: int) -> None:
    if (grammar := _prepared(schema)) is None:
        return
    chooser = random.Random(seed)
    for _ in range(5):
        text = grammar.sample(chooser)
        assert text is None or _valid(schema, text), text


@SETTINGS
@given(ROOTS, VALUES)
def test_a_value_the_grammar_accepts_is_valid(schema: Schema, value: Any) -> None:
    grammar = _prepared(schema)
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    assert grammar is None or not grammar.accepts(text) or _valid(schema, text)


FIELDS: list[tuple[Schema, st.SearchStrategy[Any]]] = [
    ({"type": "string"}, st.text(st.characters(codec="utf-8"), max_size=9)),
    ({"type": "string", "minLength": 1}, st.text('aé"\n\\', min_size=1, max_size=9)),
    ({"type": "integer", "minimum": -5, "maximum": 300}, st.integers(-5, 300)),
    ({"type": "number"}, st.floats(allow_nan=False, allow_infinity=False)),
    ({"type": "boolean"}, st.booleans()),
    ({"enum": ["x", 'y"', None, 2.5]}, st.sampled_from(["x", 'y"', None, 2.5])),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 3}, st.lists(st.integers(), max_size=3)),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, st.none() | st.integers()),
    ({}, VALUES),
]
MODELS = st.dictionaries(st.sampled_from(["name", "é", "tags", ""]), st.sampled_from(FIELDS), min_size=1)


@SETTINGS
@given(MODELS, st.data())
def test_plain_schemas_lose_none_of_their_values(model: dict[str, Any], data: st.DataObject) -> None:
    schema = {"type": "object", "properties": {name: field[0] for name, field in model.items()}}
    value = {name: data.draw(field[1]) for name, field in model.items()}
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    assert PreparedGrammar({**schema, "required": list(model)}).accepts(text)


def _repeated(item: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    times = st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,3}", "{2,}"])
    return st.builds("({}){}".format, item, times)


ATOMS = st.sampled_from(
    [
        "a",
        "b",
        "[ab]",
        ".",
        "[^a]",
        r"\w",
        r"\W",
        "é",
        "[aé]",
        '"',
        r"\\",
        r"\n",
        '[^"]',
        r"\^",
        r"[\^-`]",
        r'[\n"]',
    ]
)
SOURCES = st.recursive(
    ATOMS,
    lambda inner: (
        _repeated(inner)
        | st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner | st.just(""), min_size=1, max_size=3).map(lambda options: f"({'|'.join(options)})")
    ),
    max_leaves=6,
)


@settings(SETTINGS, max_examples=400)
@given(SOURCES.map("^{}$".format), st.lists(st.text('ab"\\\né^', max_size=5), min_size=10, max_size=20))
def test_a_pattern_means_the_same_to_xgrammar(source: str, texts: list[str]) -> None:
    try:
        node = parse(source)
        spelled = spell(node)
    except PatternError:
        return
    for text in texts if spelled is not None else ():
        written = json.dumps(text, ensure_ascii=False)
        assert not accepts_pattern(spelled or "", written) or matches(node, text), (spelled, text)


@settings(SETTINGS, max_examples=200)
@given(SOURCES.map("^{}$".format), st.text("abé", max_size=5))
def test_a_pattern_keeps_every_text_that_needs_no_escape(source: str, text: str) -> None:
    try:
        spelled = spell(parse(source))
    except PatternError:
        return
    if spelled is not None and matches(parse(source), text):
        assert accepts_pattern(spelled, json.dumps(text, ensure_ascii=False))
