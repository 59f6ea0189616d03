"""What of JSON Schema is refused, and what the client then reads."""

from typing import Any

import pytest

from app.constrain.compile import grammar_for
from app.core.errors import InvalidRequest
from tests.unit.json_grammar import PreparedGrammar

pytestmark = [pytest.mark.row("A7"), pytest.mark.point(92)]

Schema = dict[str, Any]


def obj(properties: Schema, *required: str, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), **more}


INT, TEXT = {"type": "integer"}, {"type": "string"}

REFUSED: dict[str, tuple[Schema, str]] = {
    "not": (obj({"age": {"not": {"minimum": 3}}}), '$.properties.age: "not" is not supported'),
    "if": ({"if": INT, "then": {"minimum": 1}}, '$: "if" is not supported'),
    "dependentRequired": (
        obj({"a": INT}, dependentRequired={"a": ["b"]}),
        '"dependentRequired" is not supported',
    ),
    "dependencies": (obj({"a": INT}, dependencies={"a": ["b"]}), '"dependencies" is not supported'),
    "contains": ({"type": "array", "contains": INT}, '"contains" is not supported'),
    "remote $ref": (
        {"$ref": "https://example.com/a.json"},
        "\"$ref\" to 'https://example.com/a.json' is not supported",
    ),
    "missing $ref": ({"$ref": "#/$defs/a"}, "finds nothing there"),
    "dynamic $ref": ({"$dynamicRef": "#a"}, '"$dynamicRef" is not supported'),
    "circle": ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, '"$ref" goes round in a circle'),
    "own alternative": ({"anyOf": [{"$ref": "#"}, INT]}, "includes itself"),
    "endless": (obj({"a": {"$ref": "#"}}, "a"), "no value can satisfy"),
    "look-ahead": (
        {"type": "string", "pattern": "^(?!a)b"},
        "$.pattern: the regular expression cannot be honoured: look-around",
    ),
    "back reference": ({"type": "string", "pattern": "(a)\\1"}, "backreferences are not supported"),
    "word boundary": ({"type": "string", "pattern": "\\bx"}, "word boundaries are not supported"),
    "inner anchor": (
        {"type": "string", "pattern": "a$b"},
        '"^" and "$" are supported only where the text begins and ends',
    ),
    "broken pattern": ({"type": "string", "pattern": "(a"}, "unclosed group"),
    "options of the matcher": (
        obj({"a": {"type": "integer", "x-guidance": {"lenient": True}}}),
        '$.properties.a: "x-guidance" is not for clients to set',
    ),
    "other multiples": (
        {"type": "integer", "multipleOf": 7},
        '"multipleOf" is supported for divisors of 1 and of 1000',
    ),
    "many patterns": (
        {"allOf": [{"pattern": letter} for letter in "abcde"]},
        '"pattern" is supported 4 times for the same string',
    ),
    "long pattern": ({"pattern": "a" * 5000}, "the regular expression is longer than 4096 characters"),
    "set without enough": (
        {"items": {"enum": [1, 2]}, "uniqueItems": True, "minItems": 3},
        "there are too few distinct items",
    ),
    "open minProperties": ({"type": "object", "minProperties": 2}, '"minProperties" is supported only where'),
    "type": ({"type": "strin"}, "$.type: 'strin' is no type of JSON"),
    "required": (obj({"a": {"required": "x"}}), "$.properties.a.required: 'x' is not of type 'array'"),
    "properties": ({"properties": []}, "$.properties: [] is not of type 'object'"),
    "old items": ({"items": [INT, 5]}, "$.items[1]: 5 is not of type"),
    "schema elsewhere": ({"x": {"type": 5}, "$ref": "#/x"}, "$.x.type: 5 is no type of JSON"),
    "minimum over maximum": (
        obj({"a": {"type": "integer", "minimum": 5, "maximum": 3}}),
        "$.properties.a: no number lies",
    ),
    "minLength over maxLength": (
        {"minLength": 3, "maxLength": 2},
        '$: "minLength" is greater than "maxLength"',
    ),
    "empty enum": ({"enum": []}, "$.enum: there is no value to choose"),
    "no value": ({"type": "string", "enum": [1, 2]}, "no value can satisfy"),
    "required but forbidden": (obj({"a": False}, "a"), '$: the required property "a" can have no value'),
    "minLength": ({"type": "string", "minLength": 10**9}, '"minLength" is supported up to 1000000'),
    "minItems": ({"type": "array", "minItems": 10**8}, '"minItems" is supported up to 100000'),
    "size": ({"enum": list(range(6000))}, "larger than 5000 values"),
    "alternatives": (
        {
            "allOf": [
                {"anyOf": [obj({f"a{i}": INT}, f"a{i}"), obj({f"b{i}": INT}, f"b{i}")]} for i in range(12)
            ]
        },
        "the alternatives multiply to more than 128",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_with_its_reason(name: str) -> None:
    schema, reason = REFUSED[name]
    with pytest.raises(InvalidRequest) as caught:
        grammar_for(schema)
    assert str(caught.value).startswith("invalid JSON schema in format: $")
    assert reason in str(caught.value)


def test_depth_is_limited_as_vllm_limits_it() -> None:
    def nested(levels: int) -> Schema:
        return {"items": nested(levels - 1)} if levels else {"type": "integer"}

    assert PreparedGrammar(nested(63)).accepts("[" * 63 + "1" + "]" * 63)
    with pytest.raises(InvalidRequest, match="nest more than 64 levels deep"):
        grammar_for(nested(64))
