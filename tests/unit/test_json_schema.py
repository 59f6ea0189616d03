"""What a JSON Schema becomes, judged by the matcher that the engine runs."""

import json
from typing import Any

import pytest

from app.constrain.compile import grammar_for
from tests.unit.json_grammar import PreparedGrammar

pytestmark = [pytest.mark.row("A7"), pytest.mark.point(92)]

Schema = dict[str, Any]


def obj(properties: Schema, *required: str, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), **more}


INT, TEXT = {"type": "integer"}, {"type": "string"}
TREE = obj({"v": INT, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "v")

HONOURED: dict[str, tuple[Schema, list[str], list[str]]] = {
    "required alone": (
        {"type": "object", "required": ["zz"]},
        ['{"zz":1}', '{"zz":1,"a":1}'],
        ["{}", '{"a":1}', '{"zz":1,"zz":1}'],
    ),
    "distinct booleans": (
        {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True},
        ["[]", "[true]", "[true,false]"],
        ["[true,true]", "[true,false,true]"],
    ),
    # types, booleans, unions
    "empty": ({}, ["{}", "1", '"x"', "[null]", "true"], ["", "{"]),
    "annotations only": ({"title": "T", "x-unknown": 1, "default": {}}, ["1", "{}"], []),
    "type list": ({"type": ["integer", "null"]}, ["1", "null"], ["1.5", '"x"']),
    "any object": ({"type": "object"}, ["{}", '{"a":[1]}'], ["1"]),
    "any array": ({"type": "array"}, ["[]", '[1,"x"]'], ["{}"]),
    "nullable": ({"type": "string", "nullable": True}, ['"x"', "null"], ["1"]),
    "false in a union": ({"anyOf": [{"not": {}}, TEXT]}, ['"x"'], ["1"]),
    "type beside enum": ({"type": "integer", "enum": [1, "a", 2.0]}, ["1", "2"], ['"a"']),
    "enum beside bounds": ({"enum": [1, 5, 9], "minimum": 3}, ["5", "9"], ["1"]),
    "const": ({"const": {"a": [1, "x"]}}, ['{"a":[1,"x"]}'], ['{"a":[1]}']),
    "decimal const": ({"enum": [0.1, 2.5]}, ["0.1", "2.5"], ["0.2"]),
    "not among values": ({"enum": ["a", "b"], "not": {"const": "b"}}, ['"a"'], ['"b"']),
    "true is not 1": ({"enum": [1, True], "type": "boolean"}, ["true"], ["1"]),
    "anyOf beside type": (
        {
            "type": "object",
            "properties": {"a": INT, "b": INT},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        ['{"a":1}', '{"b":1}', '{"a":1,"b":2}'],
        ["{}"],
    ),
    # numbers
    "exclusive bounds": ({"type": "integer", "exclusiveMinimum": 0, "maximum": 3}, ["1", "3"], ["0", "4"]),
    "fraction bounds": ({"type": "integer", "minimum": 1.5, "maximum": 3.5}, ["2", "3"], ["1", "4"]),
    "draft 4 exclusive": ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, ["1"], ["0"]),
    "number bounds": (
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        ["0", "0.5"],
        ["1", "-1", "1e3"],
    ),
    "multiple of 1": ({"type": "number", "multipleOf": 1}, ["5"], ["5.5"]),
    "multiples in a range": (
        {"type": "integer", "multipleOf": 5, "minimum": 1, "maximum": 12},
        ["5", "10"],
        ["7", "15"],
    ),
    "64 bits": (
        {"type": "integer", "minimum": -1e30, "maximum": 2**63 - 1},
        ["0", str(2**63 - 1)],
        [str(2**63)],
    ),
    "steps of decimals": ({"type": "number", "multipleOf": 0.01}, ["1", "0.25", "-3.1"], ["0.125", "1e2"]),
    "steps of tens": ({"type": "integer", "multipleOf": 5, "minimum": 0}, ["0", "15", "1005"], ["7", "-5"]),
    "digits": (
        {"type": "number"},
        ["0.1", "-6.02e23", "1.7e307", "12345678901234567"],
        ["1" * 30, "0." + "3" * 30, "1e999", "01"],
    ),
    "digits of an integer": ({"type": "integer"}, ["-9", str(2**63)], ["1" * 30]),
    "not a type": ({"not": {"type": "string"}}, ["1", "null", "{}"], ['"x"']),
    # strings
    "length": (
        {"type": "string", "minLength": 1, "maxLength": 3},
        ['"a"', '"é😀x"', '"\\t"', '"\\"\\\\\\n"'],
        ['""', '"abcd"', '"a\t"'],
    ),
    "long length": ({"type": "string", "maxLength": 300}, ['"' + "x" * 300 + '"'], ['"' + "x" * 301 + '"']),
    "at least one": ({"type": "string", "minLength": 1}, ['"a\\n\\"b\\""', '"\\\\"'], ['""', '"\n"', '"""']),
    "huge length": ({"type": "string", "maxLength": 10**9}, ['"abc"'], ["1"]),
    "empty text": ({"type": "string", "maxLength": 0}, ['""'], ['"a"']),
    "pattern": ({"type": "string", "pattern": "^[A-Z]{2}-\\d+$"}, ['"AB-12"'], ['"AB-"', '"xAB-1"']),
    "pattern searches": ({"type": "string", "pattern": "b+"}, ['"abc"', '"\\n b"'], ['"ac"', '"b"x"']),
    "anchored alternatives": ({"type": "string", "pattern": "^a|b$"}, ['"ax"', '"xb"'], ['"xa"', '"bx"']),
    "optional group": ({"type": "string", "pattern": "^(ab*)?$"}, ['""', '"abb"'], ['"b"', '"bb"']),
    "quote in pattern": ({"type": "string", "pattern": '^"a\\\\$'}, ['"\\"a\\\\"'], ['""a"', '"a"']),
    "pattern and length": (
        {"type": "string", "pattern": "^[a-z][a-z0-9]*$", "maxLength": 3},
        ['"a1"', '"abc"'],
        ['"abcd"'],
    ),
    "pattern longer than 128": ({"type": "string", "pattern": "^[a-z]{0,200}$"}, ['"abc"'], ['"A"']),
    "unicode class": ({"type": "string", "pattern": "^[\\u00e0-\\uffff]$"}, ['"é"', '"漢"'], ['"a"', '"😀"']),
    "date": ({"type": "string", "format": "date"}, ['"2024-02-29"'], ['"2023-02-29"', '"2023-04-31"']),
    "date-time": ({"type": "string", "format": "date-time"}, ['"2024-01-31T23:59:59.5Z"'], ['"2024-01-31"']),
    "uuid": ({"type": "string", "format": "uuid"}, ['"123e4567-e89b-12d3-a456-426614174000"'], ['"123"']),
    "email": ({"type": "string", "format": "email"}, ['"a.b@example.com"'], ['"a"', '"\\"\\q\\"@a"']),
    "ipv4": ({"type": "string", "format": "ipv4"}, ['"192.168.0.1"'], ['"256.1.1.1"', '"1.1.1"']),
    "ipv6": ({"type": "string", "format": "ipv6"}, ['"2001:db8::1"', '"::"'], ['"1:2"', '"1::2::3"']),
    "url": (
        {"type": "string", "format": "uri", "minLength": 1, "maxLength": 2083},
        ['"https://a.io/b?c=d"'],
        ['"a"'],
    ),
    "unknown format": ({"type": "string", "format": "phone"}, ['"x"'], ["1"]),
    "two patterns": ({"allOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, ['"ab"', '"a\\"b"'], ['"a"', '"b"']),
    "nulls": (
        obj({"a": {"type": "string", "minLength": None, "examples": None, "enum": None}}, title=None)
        | {"required": None},
        ["{}", '{"a":""}'],
        ['{"a":1}'],
    ),
    # arrays
    "items": (
        {"type": "array", "items": INT, "minItems": 1, "maxItems": 2},
        ["[1]", "[1,2]"],
        ["[]", "[1,2,3]"],
    ),
    "tuple": ({"prefixItems": [INT, TEXT], "minItems": 2}, ['[1,"x"]'], ["[1]", '[1,"x",2]']),
    "tuple and rest": ({"prefixItems": [INT], "items": TEXT}, ["[]", '[1,"x"]'], ["[1,2]"]),
    "draft 7 tuple": ({"items": [INT, TEXT], "additionalItems": False}, ['[1,"x"]'], ['["x"]', '[1,"x",1]']),
    "set of values": (
        {"items": {"enum": ["a", "b"]}, "uniqueItems": True},
        ['["a","b"]', "[]"],
        ['["a","a"]'],
    ),
    "set of anything": ({"items": TEXT, "uniqueItems": True}, ['["a","b"]', "[]"], ["[1]"]),
    "white space": (
        {"type": "array", "items": obj({"a": INT})},
        ['[{"a": 1}, {}]', '[\n  {\n    "a": 1\n  },\n  {}\n]', "[ ]"],
        ["[" + " " * 40 + "]", '[{"a":' + " " * 9 + "1}]", "[\n\n\n\n\n]"],
    ),
    # objects
    "no invented keys": (obj({"a": INT}), ['{"a":1}', "{}"], ['{"a":1,"b":2}', '{"a":"x"}']),
    "type implied": ({"properties": {"a": INT}, "required": ["a"]}, ['{"a":1}'], ["{}", "1"]),
    "required undeclared": ({"type": "object", "required": ["a"]}, ['{"a":null}'], ["{}"]),
    "open": (
        obj({"a": INT, "é": INT}, "a", additionalProperties=TEXT),
        ['{"a":1,"b":"x"}', '{"a":1,"ab":"","è":"x"}'],
        ['{"a":1,"\\u0061":"x"}', '{"a":1,"é":"x"}', '{"a":1,"b":2}', '{"b":"x"}'],
    ),
    "map": ({"type": "object", "additionalProperties": INT}, ["{}", '{"x":1}'], ['{"x":"y"}']),
    "names": ({"additionalProperties": INT, "propertyNames": {"enum": ["x"]}}, ['{"x":1}'], ['{"y":1}']),
    "name pattern": (
        {"additionalProperties": INT, "propertyNames": {"pattern": "^x"}},
        ['{"xy":1}'],
        ['{"y":1}'],
    ),
    "pattern properties": ({"patternProperties": {"^x_": INT}}, ['{"x_a":1}'], ['{"y":1}', '{"x_a":"b"}']),
    "counts": (
        obj({"a": INT, "b": INT, "c": INT}, minProperties=2, maxProperties=2),
        ['{"a":1,"c":1}'],
        ['{"a":1}', "{}"],
    ),
    "forbidden": (obj({"a": INT, "b": False}), ['{"a":1}'], ['{"a":1,"b":1}']),
    # combinations
    "allOf": (
        {
            "allOf": [
                obj({"a": {"type": "integer", "minimum": 3}}, "a"),
                {"properties": {"a": {"maximum": 5}, "b": TEXT}},
            ]
        },
        ['{"a":4}', '{"a":5,"b":"x"}'],
        ["{}", '{"a":9}', '{"a":2}', '{"a":4,"b":1}'],
    ),
    "allOf of a reference": (
        {"$defs": {"a": INT}, "allOf": [{"$ref": "#/$defs/a"}], "minimum": 2},
        ["2"],
        ["1"],
    ),
    "allOf of texts": ({"allOf": [TEXT, {"enum": ["yes", 1]}]}, ['"yes"'], ["1", '"no"']),
    "reference with siblings": (
        {"$defs": {"a": TEXT}, "$ref": "#/$defs/a", "maxLength": 1},
        ['"a"'],
        ['"ab"'],
    ),
    "definitions": (
        {"definitions": {"a/b": INT}, "items": {"$ref": "#/definitions/a~1b"}},
        ["[1]"],
        ['["x"]'],
    ),
    "recursion": (
        {"$defs": {"tree": TREE}, "$ref": "#/$defs/tree"},
        ['{"v":1,"kids":[{"v":2}]}'],
        ['{"v":1,"kids":[{}]}'],
    ),
    "recursion to the root": (
        obj({"next": {"$ref": "#"}, "v": INT}, "v"),
        ['{"next":{"v":1},"v":2}'],
        ['{"next":{},"v":2}'],
    ),
    "dead end avoided": (
        obj(
            {"a": INT, "b": {"$ref": "#/$defs/x"}}, **{"$defs": {"x": obj({"x": {"$ref": "#/$defs/x"}}, "x")}}
        ),
        ['{"a":1}'],
        ['{"a":1,"b":{}}'],
    ),
    "oneOf types": ({"oneOf": [INT, TEXT]}, ["1", '"x"'], ["null"]),
    "oneOf by discriminator": (
        {"oneOf": [obj({"k": {"const": "a"}, "x": INT}, "k"), obj({"k": {"enum": ["b", "c"]}}, "k")]},
        ['{"k":"a","x":1}', '{"k":"c"}'],
        ['{"k":"b","x":1}', "{}"],
    ),
    "oneOf by presence": (
        {"oneOf": [obj({"a": INT}, "a"), obj({"b": INT}, "b")]},
        ['{"a":1}', '{"b":1}'],
        ['{"a":1,"b":1}'],
    ),
    "oneOf that overlaps": ({"oneOf": [INT, {"type": "number"}]}, ["1", "1.5"], ['"x"']),
    "oneOf by a default": (
        {"oneOf": [obj({"k": {"const": "a", "default": "a"}}), obj({"k": {"const": "b"}})]},
        ['{"k":"a"}'],
        ["{}"],
    ),
    "closed across allOf": (
        {"allOf": [obj({"a": INT})], "properties": {"b": INT}, "unevaluatedProperties": False},
        ['{"b":1,"a":1}'],
        ['{"c":1}'],
    ),
}


@pytest.mark.parametrize("name", HONOURED)
def test_the_grammar_honours_the_schema(name: str) -> None:
    schema, valid, invalid = HONOURED[name]
    grammar = PreparedGrammar(schema)
    assert [text for text in valid if not grammar.accepts(text)] == []
    assert [text for text in invalid if grammar.accepts(text)] == []


def test_the_schema_of_the_client_is_left_alone() -> None:
    schema = obj({"a": {"$ref": "#/$defs/a"}}, "a", **{"$defs": {"a": {"type": "string", "minLength": 1}}})
    before = json.dumps(schema)
    grammar_for(schema)
    assert json.dumps(schema) == before


def test_many_definitions_do_not_nest_the_work() -> None:
    links = {f"d{i}": obj({"x": {"$ref": f"#/$defs/d{i + 1}"}}) for i in range(400)}
    grammar = PreparedGrammar({"$ref": "#/$defs/d0", "$defs": {**links, "d400": TEXT}})
    assert grammar.accepts('{"x":{"x":{}}}')
    assert not grammar.accepts('{"x":1}')
