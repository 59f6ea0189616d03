"""`keep_alive` as seconds, and Go's words for what is no duration."""

import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.ollama import schema
from app.api.ollama.keepalive import read_keep_alive
from app.core.errors import InvalidRequest
from app.core.request import FOREVER
from app.golang.types import Kind, parse

KINDS: list[Kind[Any]] = [schema.GENERATE, schema.CHAT, schema.EMBED, schema.EMBEDDING]


def refused(text: str) -> Any:
    return pytest.raises(InvalidRequest, match=f"^{re.escape(text)}$")


@pytest.mark.point(98, 99, 100, 101, 102)
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("abc", 'time: invalid duration "abc"'),
        ("10", 'time: missing unit in duration "10"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        (".s", 'time: invalid duration ".s"'),
        ("5 m", 'time: unknown unit " m" in duration "5 m"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("99999999999h", 'time: invalid duration "99999999999h"'),
        ("9" * 5000 + "h", f'time: invalid duration "{"9" * 1024}..."'),
        ("٣s", r'time: invalid duration "\xd9\xa3s"'),
        ('"\n', r'time: invalid duration "\"\x0a"'),
        (True, "Unsupported type: 'bool'"),
        (False, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
    ],
)
def test_a_keep_alive_that_is_no_duration(value: Any, text: str) -> None:
    for kind in KINDS:
        with refused(text):
            parse(kind, {"keep_alive": value})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *((10, 10.0), (1.5, 1.5), (0, 0.0), (-0.0, 0.0), (-1, FOREVER), (-0.5, FOREVER), (1e300, FOREVER)),
        *(
            ("5m", 300.0),
            ("1h30m", 5400.0),
            ("100ms", 0.1),
            ("0", 0.0),
            ("0s", 0.0),
            ("1.5h", 5400.0),
            ("+2s", 2.0),
        ),
        *(("-1s", FOREVER), ("-5m", FOREVER), ("3us", 3e-6), ("3µs", 3e-6), ("3μs", 3e-6), ("7ns", 7e-9)),
        *((10**40, FOREVER), (1e-12, 0.0)),
    ],
)
def test_a_keep_alive_in_seconds(value: Any, seconds: float) -> None:
    assert read_keep_alive(value) == seconds


@settings(deadline=None)
@given(st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_any_keep_alive_is_a_time_or_refused(value: Any) -> None:
    with suppress(InvalidRequest):
        assert read_keep_alive(value) >= 0
