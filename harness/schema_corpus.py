"""Schemas as libraries and tools write them, each with documents that are valid: a few hundred."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel, TypeAdapter, create_model

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """`invalid` documents must be impossible; for most subjects sampling looks for such."""

    name: str
    schema: Schema
    valid: tuple[str, ...]
    invalid: tuple[str, ...] = ()


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Address(BaseModel):
    street: str
    city: str = "Paris"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Node(BaseModel):
    value: int
    children: list["Node"] = []


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")

    a: int


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    a: int


FIELDS: list[tuple[Any, list[Any]]] = [
    (str, ["", 'he said "hi"', "é\n"]),
    (int, [0, -5, 2**40]),
    (float, [0.5, -2, 1e-7, 6.02e23]),
    (bool, [True, False]),
    (type(None), [None]),
    (Any, [None, [1], {"a": {}}]),
    (date, ["2024-02-29"]),
    (datetime, ["2024-02-29T10:00:00Z"]),
    (time, ["10:00:00Z"]),
    (timedelta, ["P1DT2H"]),
    (UUID, ["123e4567-e89b-12d3-a456-426614174000"]),
    (Decimal, [1.5, "2.50"]),
    (bytes, ["abc"]),
    (Colour, ["red"]),
    (Literal["a", 1, None], ["a", 1, None]),
    (Address, [{"street": "x"}, {"street": "x", "city": "y"}]),
    (Node, [{"value": 1}, {"value": 1, "children": [{"value": 2, "children": []}]}]),
    (Loose, [{"a": 1}, {"a": 1, "b": "x"}]),
    (Strict, [{"a": 1}]),
    (Cat | Dog, [{"kind": "cat", "lives": 9}, {"kind": "dog", "name": "Rex"}]),
    (Annotated[Cat | Dog, Field(discriminator="kind")], [{"kind": "dog", "name": "Rex"}]),
    (Annotated[str, Field(min_length=1, max_length=40)], ["a", "x" * 40, '"\\']),
    (Annotated[str, Field(max_length=500)], ["", "x" * 200, "a\nb"]),
    (Annotated[str, Field(min_length=200)], ["y" * 200]),
    (Annotated[str, Field(pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$")], ["a-b-c"]),
    (Annotated[str, Field(pattern=r"^\d{3}-\d{4}$")], ["123-4567"]),
    (Annotated[str, Field(pattern=r"^[A-Z]{2,}$", max_length=4)], ["AB", "ABCD"]),
    (Annotated[int, Field(ge=0, le=150)], [0, 99, 150]),
    (Annotated[int, Field(gt=-10, lt=10)], [-9, 9]),
    (Annotated[int, Field(ge=1)], [1, 10**12]),
    (Annotated[int, Field(multiple_of=5)], [0, 15, -20]),
    (Annotated[float, Field(ge=0, le=1)], [0, 0.25, 1]),
    (Annotated[float, Field(gt=0)], [0.001, 5]),
    (Annotated[float, Field(multiple_of=0.5)], [0.5, 3]),
    (Annotated[list[int], Field(min_length=1, max_length=3)], [[1], [1, 2, 3]]),
    (tuple[int, str], [[1, "x"]]),
    (tuple[int, ...], [[], [1, 2]]),
    (set[str], [[], ["a", "b"]]),
    (set[Literal["a", "b", "c"]], [["a", "c"]]),
    (frozenset[int], [[1, 2]]),
    (dict[str, int], [{}, {"x": 1}]),
    (dict[Literal["x", "y"], bool], [{"x": True}]),
    (dict[str, list[str | None]], [{"x": ["a", None]}]),
    (int | str, [1, "x"]),
    (Optional[int], [None, 1]),  # noqa: UP045
    (list[dict[str, str | int | None]], [[{"a": 1, "b": None}]]),
    (list[list[float]], [[[1.5], []]]),
]
"""Annotations, and values of them as JSON has them."""

_NUMBER = {"type": "number"}
ZOD: list[tuple[Schema, list[Any]]] = [
    ({"type": "string"}, ["x"]),
    ({"type": "string", "minLength": 1}, ["x", '"']),
    ({"type": "string", "maxLength": 5}, ["", "a\\b"]),
    ({"type": "string", "format": "email"}, ["a@b.io"]),
    (
        {
            "type": "string",
            "format": "email",
            "pattern": r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]"
            r"@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
        },
        ["a.b@c.io"],
    ),
    ({"type": "string", "format": "uri"}, ["https://example.com/a?b=c"]),
    ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"]),
    ({"type": "string", "format": "date-time"}, ["2024-02-29T10:00:00Z"]),
    ({"type": "string", "pattern": "^[0-9A-Fa-f]+$"}, ["00ff"]),
    ({"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "z$"}]}, ["abcz"]),
    ({"type": "string", "const": "x"}, ["x"]),
    ({"type": "string", "enum": ["a", "b"]}, ["a", "b"]),
    ({"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}, [0, -7, 2**53 - 1]),
    ({"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991}, [1, 12]),
    (_NUMBER, [0.1, -3]),
    ({"type": "number", "minimum": 0, "maximum": 100}, [0, 99.5, 100]),
    ({"type": "number", "multipleOf": 0.01}, [1.25, 3]),
    ({"type": "boolean"}, [True]),
    ({"type": "null"}, [None]),
    ({}, [1, "x", None]),
    ({"anyOf": [{"type": "string"}, _NUMBER]}, ["x", 2]),
    ({"oneOf": [_NUMBER, {"type": "integer", "minimum": 5}]}, [1.5, 7]),
    ({"type": ["string", "null"]}, ["x", None]),
    ({"type": "array", "items": _NUMBER, "minItems": 1}, [[1], [1, 2]]),
    ({"type": "array", "prefixItems": [{"type": "string"}, _NUMBER]}, [["x", 1]]),
    ({"type": "array", "items": [{"type": "string"}, _NUMBER], "additionalItems": False}, [["x", 1]]),
    ({"type": "object", "additionalProperties": _NUMBER}, [{"a": 1}]),
    ({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {}}, [{"a": []}]),
    (
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {}},
        [{"a": "x", "b": 1}],
    ),
    ({"not": {}}, []),
]

SUITE: list[tuple[Schema, list[Any]]] = [
    (
        {
            "allOf": [
                {"properties": {"bar": {"type": "integer"}}, "required": ["bar"]},
                {"properties": {"foo": {"type": "string"}}, "required": ["foo"]},
            ]
        },
        [{"bar": 2, "foo": "x"}],
    ),
    (
        {
            "properties": {"bar": {"type": "integer"}},
            "required": ["bar"],
            "allOf": [{"properties": {"foo": {"type": "string"}}, "required": ["foo"]}],
        },
        [{"bar": 2, "foo": "q"}],
    ),
    ({"allOf": [{"maximum": 30}, {"minimum": 20}]}, [25]),
    ({"anyOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2.5, 3]),
    ({"type": "string", "anyOf": [{"maxLength": 2}, {"minLength": 4}]}, ["ab", "abcd"]),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, [1, "x"]),
    (
        {
            "type": "object",
            "properties": {"a": {}, "b": {}, "c": {}},
            "oneOf": [{"required": ["a", "b"]}, {"required": ["a", "c"]}],
        },
        [{"a": 1, "b": 2}],
    ),
    ({"const": {"foo": "bar", "baz": [1, None]}}, [{"foo": "bar", "baz": [1, None]}]),
    ({"const": None}, [None]),
    ({"enum": [6, "foo", [], True, {"foo": 12}]}, [6, "foo", [], True, {"foo": 12}]),
    ({"enum": ["foo\nbar", "foo\rbar"]}, ["foo\nbar"]),
    ({"$defs": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/b"}, [5]),
    ({"properties": {"foo": {"$ref": "#"}}, "additionalProperties": False}, [{"foo": {"foo": {}}}]),
    (
        {
            "$defs": {"tilde~field": {"type": "integer"}},
            "properties": {"t": {"$ref": "#/$defs/tilde~0field"}},
        },
        [{"t": 1}],
    ),
    ({"items": {"type": "integer"}}, [[1, 2]]),
    ({"prefixItems": [{}, {}], "items": {"type": "integer"}}, [["x", "y", 1]]),
    ({"minItems": 1, "maxItems": 2, "items": {}}, [[1], [1, "x"]]),
    ({"maxProperties": 2, "properties": {"a": {}, "b": {}, "c": {}}}, [{"a": 1}, {"b": 1, "c": 2}]),
    ({"minProperties": 1, "type": "object", "additionalProperties": {}}, [{"a": 1}]),
    ({"minimum": 1.1, "type": "number"}, [1.1, 2.6]),
    ({"exclusiveMaximum": 3.0, "type": "number"}, [2.2]),
    ({"minimum": -2, "type": "number"}, [-1, 0, -2]),
    ({"multipleOf": 2, "type": "integer"}, [10, -4]),
    ({"multipleOf": 0.0001, "type": "number"}, [0.0075]),
    ({"pattern": "^a*$", "type": "string"}, ["aaa", ""]),
    ({"pattern": "a+", "type": "string"}, ["xxaayy"]),
    ({"patternProperties": {"f.*o": {"type": "integer"}}}, [{"foo": 1, "foooo": 2}]),
    ({"properties": {"foo": {"type": "integer"}, "bar": {"type": "string"}}}, [{"foo": 1, "bar": "baz"}]),
    ({"properties": {"foo\nbar": {}, 'foo"bar': {}, "foo\\bar": {}}}, [{"foo\nbar": 1, 'foo"bar': 1}]),
    ({"required": ["foo"], "properties": {"foo": {}, "bar": {}}}, [{"foo": 1}]),
    ({"type": ["integer", "string"]}, [1, "foo"]),
    ({"uniqueItems": True, "items": {"type": "integer"}}, [[1, 2]]),
    ({"uniqueItems": True, "items": {"enum": [1, 2, 3]}}, [[1, 3]]),
    ({"uniqueItems": False, "type": "array"}, [[1, 1]]),
    ({"not": {"type": "string"}}, [1, None]),
    ({"format": "ipv4", "type": "string"}, ["192.168.0.1"]),
    ({"format": "ipv6", "type": "string"}, ["::1"]),
    ({"format": "hostname", "type": "string"}, ["www.example.com"]),
    ({"format": "json-pointer", "type": "string"}, ["/foo/bar~0"]),
    ({"format": "idn-email", "type": "string"}, ["x"]),
    ({"default": [], "type": "integer"}, [1]),
    ({"$comment": "x", "title": "t", "description": "d", "examples": [1], "type": "string"}, ["x"]),
]
"""What each keyword is about, after the subjects of JSON Schema's own test suite."""


def _tool(properties: Schema, *required: str, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), **more}


_TEXT = {"type": "string", "description": "A text"}
TOOLS: list[tuple[Schema, list[Any]]] = [
    (
        _tool({"city": _TEXT, "unit": {"type": "string", "enum": ["c", "f"], "default": "c"}}, "city"),
        [{"city": "x"}],
    ),
    (_tool({"path": _TEXT, "content": _TEXT}, "path", "content"), [{"path": "a", "content": '"\n\\'}]),
    (
        _tool({"query": _TEXT, "limit": {"type": "integer", "minimum": 1, "maximum": 50}}, "query"),
        [{"query": "q", "limit": 5}],
    ),
    (_tool({}), [{}]),
    (_tool({}, additionalProperties=False), [{}]),
    (
        _tool(
            {"edits": {"type": "array", "items": _tool({"old": _TEXT, "new": _TEXT}, "old", "new")}}, "edits"
        ),
        [{"edits": [{"old": "", "new": "x"}]}],
    ),
    (_tool({"a": {"type": "string", "nullable": True}}, "a"), [{"a": None}, {"a": "x"}]),
    (
        _tool({"a": {"type": "boolean", "description": None, "examples": None}}, "a", title=None),
        [{"a": True}],
    ),
    ({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": None}, [{}]),
    (
        _tool(
            {f"a_property_with_long_name{at}": {"type": "boolean"} for at in range(20)},
            additionalProperties=True,
        ),
        [{"a_property_with_long_name3": True, "x": 1}],
    ),
    (_tool({f"p{at}": {"type": "string", "maxLength": 100 + at} for at in range(40)}), [{"p39": 'x"' * 50}]),
    (
        _tool(
            {
                "when": {"type": "string", "format": "date"},
                "tags": {"type": "array", "items": _TEXT, "uniqueItems": True},
            },
            "when",
        ),
        [{"when": "2024-01-31", "tags": ["a"]}],
    ),
]


def subjects() -> Iterator[Subject]:
    yield from _pydantic()
    for at, (schema, values) in enumerate(ZOD):
        yield from _wrapped(f"zod {at}", schema, values)
    for name, group in (("suite", SUITE), ("tool", TOOLS)):
        for at, (schema, values) in enumerate(group):
            yield Subject(f"{name} {at}", schema, _texts(values))
            yield Subject(
                f"{name} {at} in a list",
                {"type": "array", "items": schema}
                | {key: schema[key] for key in ("$defs",) if key in schema},
                _texts([[value] for value in values]) if "$ref" not in json.dumps(schema) else (),
            )


def _texts(values: list[Any]) -> tuple[str, ...]:
    return tuple(json.dumps(value, ensure_ascii=False) for value in values)


def _listed(kind: Any) -> Schema:
    return create_model("Listed", __base__=RootModel[list[kind]]).model_json_schema()  # pyright: ignore


def _pydantic() -> Iterator[Subject]:
    for at, (kind, values) in enumerate(FIELDS):
        yield Subject(f"pydantic {at}", TypeAdapter(kind).json_schema(), _texts(values))
        for name, default in (("required", ...), ("optional", None)):
            model: type[BaseModel] = create_model("Model", x=(kind, default), y=(int, 0))
            documents = [{"x": value} for value in values] + ([{}] if default is None else [])
            yield Subject(f"pydantic {at} {name}", model.model_json_schema(), _texts(documents))
        listed = [[value] for value in values]
        yield Subject(f"pydantic {at} listed", _listed(kind), _texts(listed))


def _wrapped(name: str, schema: Schema, values: list[Any]) -> Iterator[Subject]:
    closed = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}
    for suffix, required in (("", ["a"]), (" optional", list[str]())):
        whole = {**closed, "properties": {"a": schema}, "required": required, "additionalProperties": False}
        documents = [{"a": value} for value in values] + ([] if required else [{}])
        if documents:
            yield Subject(name + suffix, whole, _texts(documents))
    nullable = {**closed, "properties": {"a": {"anyOf": [schema, {"type": "null"}]}}}
    yield Subject(f"{name} nullable", nullable, _texts([{"a": value} for value in [*values, None]]))
    yield Subject(f"{name} listed", {"type": "array", "items": schema}, _texts([[value] for value in values]))
