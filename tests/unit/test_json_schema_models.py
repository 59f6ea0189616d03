"""Schemas as people make them: from pydantic models and from Zod. None of them may be refused."""

import random
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, EmailStr, Field, HttpUrl, TypeAdapter, ValidationError

from tests.unit.json_grammar import PreparedGrammar

pytestmark = [pytest.mark.row("A7"), pytest.mark.point(92)]


class Address(BaseModel):
    street: str
    city: str = "Paris"


class Person(BaseModel):
    """A nested model with optional and defaulted fields."""

    name: Annotated[str, Field(min_length=1, max_length=40)]
    age: Annotated[int, Field(ge=0, le=150)]
    nickname: Optional[str] = None  # noqa: UP045
    address: Address | None = None


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Car(BaseModel):
    colour: Colour
    wheels: Literal[3, 4]
    doors: Colour = Colour.RED


class Country(BaseModel):
    name: str
    languages: Annotated[list[str], Field(min_length=1, max_length=3)]
    population: dict[str, int]


class Event(BaseModel):
    id: UUID
    day: date
    at: datetime
    host: IPv4Address


class Measure(BaseModel):
    ratio: Annotated[float, Field(gt=0, lt=1)]
    percent: Annotated[float, Field(ge=0, le=100)]
    even: Annotated[int, Field(multiple_of=2, ge=0, le=20)]
    point: tuple[float, float]


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Pets(BaseModel):
    """A discriminated union, one side of which has its discriminator by default."""

    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]
    favourite: Cat | Dog | None = None


class Tree(BaseModel):
    value: int
    children: list["Tree"] = []


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    slug: Annotated[str, Field(pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$")]
    code: Annotated[str, Field(pattern=r"^[A-Z]{2,}$", max_length=4)]


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")

    a: int


class Contact(BaseModel):
    email: EmailStr
    site: HttpUrl


class Bag(BaseModel):
    anything: Any
    maybe: Any | None = None
    items: list[dict[str, str | int | None]]
    flags: dict[Literal["x", "y"], bool]
    kinds: set[Literal["a", "b", "c"]]
    price: Annotated[Decimal, Field(ge=0, le=10)] | None = None


MODELS: list[type[BaseModel]] = [
    Person,
    Car,
    Country,
    Event,
    Measure,
    Pets,
    Tree,
    Strict,
    Loose,
    Contact,
    Bag,
]


SAID_IN_FULL = [model for model in MODELS if model not in (Contact, Bag)]
"""Models whose schema says all they ask for: a `HttpUrl` is any URI there, a `Decimal` any string."""


@pytest.mark.parametrize("model", SAID_IN_FULL)
def test_an_answer_for_a_pydantic_model_is_an_instance_of_it(model: type[BaseModel]) -> None:
    grammar, chooser = PreparedGrammar(model.model_json_schema()), random.Random(1)
    texts = [text for _ in range(60) if (text := grammar.sample(chooser, longest=900))]
    assert len(texts) > 5
    for text in texts:
        model.model_validate_json(text)


WRITTEN: list[tuple[type[BaseModel], str, bool]] = [
    (Person, '{"name": "Ann", "age": 30, "nickname": null, "address": {"street": "x", "city": "y"}}', True),
    (Person, '{"name": "Ann", "age": 30, "address": {"city": "y"}}', False),
    (Person, '{"name": "", "age": 30}', False),
    (Car, '{"colour": "red", "wheels": 4}', True),
    (Car, '{"colour": "blue", "wheels": 4}', False),
    (Country, '{"name": "Belgium", "languages": ["nl", "fr"], "population": {"2020": 11}}', True),
    (Country, '{"name": "Belgium", "languages": [], "population": {}}', False),
    (Measure, '{"ratio": 0.25, "percent": 100, "even": 8, "point": [1, 2.5e3]}', True),
    (Measure, '{"ratio": 0.25, "percent": 100, "even": 7, "point": [1, 2]}', False),
    (Pets, '{"pets": [{"kind": "cat", "lives": 9}, {"kind": "dog", "name": "Rex"}]}', True),
    (Pets, '{"pets": [{"kind": "dog", "lives": 9}]}', False),
    (Tree, '{"value": 1, "children": [{"value": 2, "children": []}]}', True),
    (Strict, '{"slug": "a-b-c", "code": "ABCD"}', True),
    (Strict, '{"slug": "a--b", "code": "AB"}', False),
    (Loose, '{"a": 1, "b": [true]}', True),
    (Contact, '{"email": "a@example.com", "site": "https://example.com/a?b=c"}', True),
    (
        Bag,
        '{"anything": [1], "items": [{"a": 1, "b": null}], "flags": {"x": true}, "kinds": ["a", "c"]}',
        True,
    ),
]


@pytest.mark.parametrize(("model", "text", "valid"), WRITTEN)
def test_the_grammar_and_the_model_agree(model: type[BaseModel], text: str, valid: bool) -> None:
    assert PreparedGrammar(model.model_json_schema()).accepts(text) is valid
    if valid:
        model.model_validate_json(text)
    else:
        with pytest.raises(ValidationError):
            model.model_validate_json(text)


def test_a_bare_list_of_models_may_be_the_root() -> None:
    grammar = PreparedGrammar(TypeAdapter(list[Car | Address]).json_schema())
    assert grammar.accepts('[{"street":"x"},{"colour":"red","wheels":3}]')
    assert not grammar.accepts('[{"colour":"red"}]')


ZOD_USER = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "email": {
            "type": "string",
            "format": "email",
            "pattern": r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@"
            r"([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
        },
        "born": {
            "type": "string",
            "format": "date",
            "pattern": r"^(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29"
            r"|\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])"
            r"|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|(?:02)-(?:0[1-9]|1\d|2[0-8])))$",
        },
        "score": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991},
        "tags": {
            "type": "object",
            "propertyNames": {"type": "string"},
            "additionalProperties": {"type": "boolean"},
        },
        "role": {"anyOf": [{"type": "string", "enum": ["admin", "user"]}, {"type": "null"}]},
    },
    "required": ["email", "born", "score", "role"],
    "additionalProperties": False,
}
ZOD_3_SHAPES = {
    "$ref": "#/definitions/Shapes",
    "definitions": {
        "Shapes": {
            "type": "array",
            "items": {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {
                            "type": {"type": "string", "const": "circle"},
                            "r": {"type": "number"},
                        },
                        "required": ["type", "r"],
                        "additionalProperties": False,
                    },
                    {
                        "allOf": [
                            {
                                "type": "object",
                                "properties": {"type": {"type": "string", "const": "box"}},
                                "required": ["type"],
                            },
                            {"type": "object", "properties": {"w": {"not": {}}, "h": {"type": "number"}}},
                        ],
                    },
                ]
            },
            "minItems": 1,
        }
    },
    "$schema": "http://json-schema.org/draft-07/schema#",
}
OPENAPI_3 = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "format": "int64", "minimum": 0, "exclusiveMinimum": True},
        "note": {"type": "string", "nullable": True, "example": "x"},
        "pair": {
            "type": "array",
            "items": [{"type": "string"}, {"type": "number"}],
            "minItems": 2,
            "maxItems": 2,
        },
    },
    "required": ["id", "note"],
}


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        (
            ZOD_USER,
            '{"email":"a.b@c.io","born":"2024-02-29","score":1,"tags":{"x":true},"role":null}',
            '{"email":"a..b@c.io","born":"2024-02-29","score":1,"role":null}',
        ),
        (ZOD_3_SHAPES, '[{"type":"circle","r":1.5},{"type":"box","h":2}]', '[{"type":"box","w":1}]'),
        (OPENAPI_3, '{"id":1,"note":null,"pair":["x",1]}', '{"id":0,"note":null}'),
    ],
)
def test_generated_schemas_of_other_tools_are_honoured(
    schema: dict[str, Any], valid: str, invalid: str
) -> None:
    grammar = PreparedGrammar(schema)
    assert grammar.accepts(valid)
    assert not grammar.accepts(invalid)
