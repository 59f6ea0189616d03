"""The first JSON value of a body, and Go's words when there is none."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import InvalidRequest
from app.golang.json import MAX_DEPTH, check_syntax, decode

_BEGIN = "looking for beginning of value"
_KEY = "looking for beginning of object key string"

BROKEN = [
    (b"", "missing request body"),
    (b" \t\r\n", "missing request body"),
    (b"{", "unexpected EOF"),
    (b"[1,", "unexpected EOF"),
    (b'{"a"', "unexpected EOF"),
    (b'{"a":', "unexpected EOF"),
    (b'{"a":1,', "unexpected EOF"),
    (b'"abc', "unexpected EOF"),
    (b'"a\\', "unexpected EOF"),
    (b'"a\\u12', "unexpected EOF"),
    (b"tru", "unexpected EOF"),
    (b"-", "unexpected EOF"),
    (b"1.", "unexpected EOF"),
    (b"2e+", "unexpected EOF"),
    (b"xyz", f"invalid character 'x' {_BEGIN}"),
    (b"[1,]", f"invalid character ']' {_BEGIN}"),
    (b"[,1]", f"invalid character ',' {_BEGIN}"),
    (b'{"a":1,}', f"invalid character '}}' {_KEY}"),
    (b"{,}", f"invalid character ',' {_KEY}"),
    (b"{'a':1}", f"invalid character '\\'' {_KEY}"),
    (b"{1:1}", f"invalid character '1' {_KEY}"),
    (b'{"a" "b"}', "invalid character '\"' after object key"),
    (b'{"a":"b" "c":1}', "invalid character '\"' after object key:value pair"),
    (b'{"a":01}', "invalid character '1' after object key:value pair"),
    (b"[1 2]", "invalid character '2' after array element"),
    (b'[{"a":[]}}', "invalid character '}' after array element"),
    (b'{"a":"x\ny"}', "invalid character '\\n' in string literal"),
    (b'"\x00"', "invalid character '\\x00' in string literal"),
    (b'"\\q"', "invalid character 'q' in string escape code"),
    (b'"\\u12g4"', "invalid character 'g' in \\u hexadecimal character escape"),
    (b"tru}", "invalid character '}' in literal true (expecting 'e')"),
    (b"[nul]", "invalid character ']' in literal null (expecting 'l')"),
    (b"[fax]", "invalid character 'x' in literal false (expecting 'l')"),
    (b"[-x]", "invalid character 'x' in numeric literal"),
    (b"[1.]", "invalid character ']' after decimal point in numeric literal"),
    (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
    (b"[1e]", "invalid character ']' in exponent of numeric literal"),
    (b"NaN", f"invalid character 'N' {_BEGIN}"),
    (b'{"a":NaN}', f"invalid character 'N' {_BEGIN}"),
    (b"[Infinity]", f"invalid character 'I' {_BEGIN}"),
    (b"[-Infinity]", "invalid character 'I' in numeric literal"),
    (b"\xef\xbb\xbf{}", f"invalid character 'ï' {_BEGIN}"),
    (b"\x1f\x8b\x08", f"invalid character '\\x1f' {_BEGIN}"),
    (b"\x85", f"invalid character '\\u0085' {_BEGIN}"),
    (b"\\", f"invalid character '\\\\' {_BEGIN}"),
    (b"\x0b{}", f"invalid character '\\v' {_BEGIN}"),
]


@pytest.mark.point(33, 34, 35, 36, 40)
@pytest.mark.parametrize(("body", "text"), BROKEN)
def test_a_broken_body_is_refused_in_the_words_of_go(body: bytes, text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(text)}$"):
        decode(body)


@pytest.mark.parametrize("body", [body for body, text in BROKEN if text == "unexpected EOF"])
def test_a_cut_body_is_broken_behind_spaces_too(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^unexpected EOF$"):
        decode(b" \n" + body)


@pytest.mark.point(31)
@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":1} junk', {"a": 1}),
        (b'{"a":1}}', {"a": 1}),
        (b'[1] {"b"', [1]),
        (b"1 2", 1),
        (b"01", 0),
        (b'"x"y', "x"),
        (b"nullx", None),
        (b' \r\n{"a":[true]}\xff\xfe', {"a": [True]}),
    ],
)
def test_what_follows_the_first_value_is_not_looked_at(body: bytes, value: Any) -> None:
    assert decode(body) == value


@pytest.mark.point(30)
def test_the_last_of_two_equal_keys_wins_and_order_is_kept() -> None:
    for tail in (b"", b" junk"):
        assert list(decode(b'{"b":1,"a":2,"c":3,"a":4}' + tail).items()) == [("b", 1), ("a", 4), ("c", 3)]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'"a\xffb"', "a\ufffdb"),
        (b'"\xe2\x82"', "\ufffd\ufffd"),
        (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
        (b'["\\ud800", "\\udc00x"]', ["\ufffd", "\ufffdx"]),
        (b'"\\ud83d\\ud83d\\ude00"', "\ufffd\U0001f600"),
        (b'"\\ud83d\xff"', "\ufffd\ufffd"),
        (b'{"\\udfff":{"k\xff":1}}', {"\ufffd": {"k\ufffd": 1}}),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
    ],
)
def test_what_is_no_text_becomes_the_replacement_character(body: bytes, value: Any) -> None:
    assert decode(body) == value


@pytest.mark.parametrize("tail", [b"", b" junk"])
def test_numbers_beyond_the_machine_are_floats_or_refused(tail: bytes) -> None:
    assert decode(b'{"a":' + b"9" * 30 + b"}" + tail) == {"a": 1e30}
    for huge in (b"1e400", b"-1e400", b"9" * 5000, b"9" * 400 + b".5"):
        with pytest.raises(InvalidRequest, match=r"^json: cannot unmarshal number -?[0-9e.]+ into Go value"):
            decode(b'{"a":' + huge + b"}" + tail)


def test_nesting_has_a_limit_however_deep_it_goes() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert levels(decode(deepest)) == levels(decode(deepest + b"x")) == MAX_DEPTH
    assert decode(b"[" + b"[[]]," * MAX_DEPTH + b"1]")[-1] == 1
    for body in (b"[" + deepest + b"]", b"[" + deepest + b"]x", b"[" * 100_000):
        with pytest.raises(InvalidRequest, match=r"^invalid character '\[' exceeded max depth$"):
            decode(body)
    with pytest.raises(InvalidRequest, match=r"^invalid character '{' exceeded max depth$"):
        decode(b'{"a":' * 10_001 + b"1" + b"}" * 10_001)


def levels(value: Any) -> int:
    """How deeply `value` is nested, along its first items."""
    found = 0
    while isinstance(value, dict | list):
        value = next(iter(value.values() if isinstance(value, dict) else value), None)
        found += 1
    return found


@pytest.mark.parametrize(
    "body",
    [
        b'"' + b"a" * 4_000_000,
        b'"' + b"\\n" * 2_000_000,
        b"[" + b"1," * 100_000,
        b" " * 4_000_000 + b"[",
    ],
    ids=["text", "escapes", "numbers", "spaces"],
)
def test_a_long_broken_body_is_refused_all_the_same(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^unexpected EOF$"):
        decode(body)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)
@given(JSON, st.booleans(), st.sampled_from([None, 1]))
def test_what_json_writes_is_read_back(value: Any, escape: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=escape, indent=indent).encode()
    check_syntax(body)
    assert decode(body) == value


@settings(deadline=None)
@given(JSON.filter(lambda value: isinstance(value, dict | list)), st.binary())
def test_any_bytes_may_follow_a_container(value: Any, tail: bytes) -> None:
    body = json.dumps(value).encode()
    assert decode(body + tail) == json.loads(body)


PIECES = st.lists(
    st.sampled_from(
        [
            *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u12", b"\\ud800", b"a", b'"k":', b'"v",'),
            *(b"true", b"nul", b"NaN", b"-", b"1", b"0", b".", b"e5", b"E+"),
            *(b" ", b"\n", b"\xff", b"\xef\xbb\xbf"),
        ]
    )
).map(b"".join)


def is_refused(read: Callable[[bytes], Any], body: bytes) -> bool:
    try:
        read(body)
    except InvalidRequest:
        return True
    return False


@settings(deadline=None)
@given(st.binary() | PIECES)
def test_any_bytes_are_a_value_or_a_refusal_that_the_scanner_agrees_with(body: bytes) -> None:
    assert is_refused(decode, body) == is_refused(check_syntax, body)


@settings(deadline=None, max_examples=50)
@given(JSON, st.integers(1, 3000), st.sampled_from([b"", b"]", b" junk", b"{[["]))
def test_what_is_too_deep_for_the_call_stack_is_read_as_what_is_not(
    value: Any, wraps: int, tail: bytes
) -> None:
    """F7: the way without recursion agrees with the library that it stands in for."""
    text = json.dumps(value).encode()
    read = decode(b'{"a":[' * wraps + text + b"]}" * wraps + tail)
    for _ in range(wraps):
        (read,) = read["a"]
    assert json.dumps(read) == json.dumps(decode(text + b" junk"))
