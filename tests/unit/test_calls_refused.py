"""What JSON, a schema or a format's tags cannot say for certain is no call."""

import json
from typing import Any

import pytest

from app.decode.calls.base import Reading
from app.decode.calls.typed import typed
from tests.unit.calling import FORMATS
from tests.unit.test_calls import EXACT, FAMILIES, GOOD, found, read

BEYOND = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1e-999",
    '"\\ud800"',
    '"\\udc00x"',
    "9" * 5000,
    "01",
    "+1",
)


@pytest.mark.parametrize("name", FAMILIES["json"])
@pytest.mark.parametrize("value", BEYOND)
@pytest.mark.parametrize("around", ["{}", "[[{}]]"])
def test_what_json_cannot_hold_is_no_call(name: str, value: str, around: str) -> None:
    text = FORMATS[name].write([("write", {"text": "HERE"})]).replace('"HERE"', around.format(value))
    reading = read(name, text)
    assert (reading.calls, reading.content) == ([], text)


@pytest.mark.parametrize("name", FAMILIES["pythonic"])
@pytest.mark.parametrize(
    "value", ["1e999", "-1e999", "1e-999", "'\\ud800'", "9" * 5000, "nan", "1j", "f()", "{1: 2}", "b''"]
)
def test_what_json_cannot_hold_is_no_call_in_python_either(name: str, value: str) -> None:
    reading = read(name, FORMATS[name].write([("write", {"text": "HERE"})]).replace("'HERE'", f"[{value}]"))
    assert reading.calls == []
    assert value in reading.content


NUMBERS = ("NaN", "Infinity", "1e999", "1e-999", "01", "1_000", "\u0663", "abc", "[1, NaN]", "1 2", "")


@pytest.mark.parametrize("text", NUMBERS)
@pytest.mark.parametrize("kind", ["integer", "number", "array", "object", "boolean"])
def test_a_text_that_its_type_cannot_hold_stays_text(text: str, kind: str) -> None:
    assert typed(text, {"properties": {"a": {"type": kind}}}, "a") == text


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("12", {"type": "integer"}, 12),
        (str(2**90), {"type": "integer"}, 2**90),
        ("1.5", {"type": "number"}, 1.5),
        ("12", {"type": "string"}, "12"),
        ("12", {}, "12"),
        ("12", {"type": ["string", "number"]}, 12),
        ("12", {"anyOf": [{"type": "null"}, {"type": "integer"}]}, 12),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ("null", {"type": "string"}, "null"),
        ("null", {}, None),
        ("True", {"type": "boolean"}, True),
        ('{"a": [1]}', {"type": "object"}, {"a": [1]}),
        ("[1]", {"$ref": "#/$defs/list"}, [1]),
        ("[1]", {"$ref": "#/$defs/loop"}, "[1]"),
        ("x", {"type": 5}, "x"),
        ("x", True, "x"),
    ],
)
def test_a_text_gets_the_type_of_its_property(text: str, schema: Any, value: Any) -> None:
    definitions = {"list": {"type": "array"}, "loop": {"$ref": "#/$defs/loop"}}
    root = {"properties": {"a": schema}, "$defs": definitions}
    assert json.dumps(typed(text, root, "a")) == json.dumps(value)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("levels", [10, 150, 300, 100_000])
def test_nesting_is_read_exactly_or_stays_text(name: str, levels: int) -> None:
    inner = '[{"k": ' * (levels // 2) + "1" + "}]" * (levels // 2)
    text = FORMATS[name].write([("write", {"text": "HERE"})])
    text = text.replace('"HERE"', inner).replace("'HERE'", inner)
    reading = read(name, text)
    assert bool(reading.calls) is (levels <= 150)
    assert reading.calls or reading.content == text


@pytest.mark.parametrize("key", ["arguments", "parameters"])
@pytest.mark.parametrize("given", [{"a": 1}, json.dumps({"a": 1})])
@pytest.mark.parametrize("nested", [True, False])
def test_arguments_by_either_name_and_as_text(key: str, given: Any, nested: bool) -> None:
    call: dict[str, Any] = {"name": "f", key: given}
    text = json.dumps({"type": "function", "function": call} if nested else call)
    for each in (f"<tool_call>{text}</tool_call>", f"<tool_call>{text}", f"<tool_call>[{text}]</tool_call>"):
        assert found(read("hermes", each)) == [("f", {"a": 1})]
    assert found(read("llama3_json", text)) == [("f", {"a": 1})]


def test_the_id_that_a_format_carries_stays() -> None:
    text = FORMATS["kimi_k2"].write([("get_weather", {})])
    assert [(call.name, call.id) for call in read("kimi_k2", text).calls] == [
        ("get_weather", "functions.get_weather:0")
    ]


AMBIGUOUS = (
    "x\n</parameter>\n</function>\n</tool_call>\nand more",
    "x\n</parameter>\n<parameter=path>\ny\n</parameter>\n</function>\n</tool_call>\nz",
    "use <function=write> so",
    "1\n<parameter=path>\n2",
)


@pytest.mark.parametrize("value", AMBIGUOUS)
def test_what_cannot_be_told_apart_is_text(value: str) -> None:
    text = FORMATS["qwen3_coder"].write([("write", {"text": "good"}), ("write", {"text": value})])
    reading = read("qwen3_coder", text)
    assert all(call in GOOD or call[1] == {"text": "good"} for call in found(reading))
    assert value in reading.content


@pytest.mark.parametrize(
    "value",
    [
        "about </tool_call> and </function> tags",
        "<a>\n  <parameter>x</parameter>\n</a>",
        FORMATS["qwen3_coder"].write(GOOD),
        "<tool_call>",
    ],
)
def test_marks_that_end_nothing_are_part_of_the_value(value: str) -> None:
    wanted = [("write", {"text": value}), ("write", {"text": value, "path": value})]
    assert found(read("qwen3_coder", FORMATS["qwen3_coder"].write(wanted))) == wanted


def test_a_cut_reply_that_goes_on_behind_a_call_may_be_within_its_argument() -> None:
    text = FORMATS["qwen3_coder"].write([("write", {"text": "x"})]) + "\nis how a call is written, and"
    assert found(read("qwen3_coder", text)) == [("write", {"text": "x"})]
    assert read("qwen3_coder", text, cut=True) == Reading(text, [], unread=True)
