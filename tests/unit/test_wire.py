import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from app.api.ollama.wire import local_stamp, utc_stamp
from app.api.wire import dumps, vectors

SECOND = 1_795_295_185
NANOSECOND = SECOND * 10**9


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_json_is_compact_and_keeps_the_order_of_keys() -> None:
    assert (
        dumps({"b": [1, 2.5, None, True], "a": {"é": ""}}) == '{"b":[1,2.5,null,true],"a":{"é":""}}'.encode()
    )


@pytest.mark.point(76)
@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("<b>&", rb"\u003cb\u003e\u0026"),
        ("a\u2028b\u2029", rb"a\u2028b\u2029"),
        # These share their first bytes with the two above and stay as they are.
        ("“—…” €", "“—…” €".encode()),
        ("a\x85b°\x80", rb"a\u0085b" + "°\x80".encode()),
        ('"\\/', rb"\"\\/"),
        ("\x00\t\n\x7f", b"\\u0000\\t\\n\x7f"),
    ],
)
def test_what_html_reads_as_markup_is_escaped(text: str, wire: bytes) -> None:
    """And what Python, and so its clients, take for the end of a line."""
    assert dumps(text) == b'"' + wire + b'"'
    assert json.loads(dumps({text: [text]})) == {text: [text]}


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        ("a\ud83d<", '"a\ufffd\\u003c"'),
        ("\ud83d\ude00", '"😀"'),
        ({"\udc00": ["\udc00", 1]}, '{"\ufffd":["\ufffd",1]}'),
        ({"n": 2**64, "m": -(2**63) - 1, "yes": True}, f'{{"n":{2**64},"m":{-(2**63) - 1},"yes":true}}'),
    ],
)
def test_half_characters_and_huge_integers_can_be_sent(value: object, wire: str) -> None:
    assert dumps(value) == wire.encode()


@pytest.mark.point(75)
@pytest.mark.parametrize(
    ("nanoseconds", "stamp"),
    [
        (0, "2026-11-21T21:06:25Z"),
        (883_093_668, "2026-11-21T21:06:25.883093668Z"),
        (883_093_000, "2026-11-21T21:06:25.883093Z"),
        (1, "2026-11-21T21:06:25.000000001Z"),
        (500_000_000, "2026-11-21T21:06:25.5Z"),
        (34_000_000_000, "2026-11-21T21:06:59Z"),
        (35_000_000_000, "2026-11-21T21:07:00Z"),
    ],
)
def test_utc_stamps_have_only_the_digits_they_need(nanoseconds: int, stamp: str) -> None:
    assert utc_stamp(NANOSECOND + nanoseconds) == stamp


@pytest.mark.parametrize(
    ("zone", "suffix", "hour"),
    [("UTC0", "Z", 21), ("AAA+7", "-07:00", 14), ("BBB-5:30", "+05:30", 2)],
    indirect=["zone"],
)
@pytest.mark.usefixtures("zone")
def test_local_stamps_are_in_the_zone_of_the_server(suffix: str, hour: int) -> None:
    day, minute = (22, 36) if suffix == "+05:30" else (21, 6)
    moment = datetime.fromtimestamp(SECOND, timezone(timedelta(hours=3)))
    assert local_stamp(moment) == f"2026-11-{day}T{hour:02}:{minute:02}:25{suffix}"
    moment += timedelta(microseconds=120_300)
    assert local_stamp(moment) == f"2026-11-{day}T{hour:02}:{minute:02}:25.1203{suffix}"
    assert datetime.fromisoformat(local_stamp(moment)) == moment


def test_a_stamp_can_be_centuries_ahead() -> None:
    assert local_stamp(datetime(2318, 1, 1, tzinfo=UTC)).startswith(("2318", "2317"))


def test_vectors_have_the_shortest_digits_that_are_exact_in_float32() -> None:
    singles = np.frombuffer(os.urandom(4096), np.float32)
    singles = singles[np.isfinite(singles)]
    lists = [[float(np.float32(0.6)), -0.25, 1e-7], [0.1, 123456789.0, 0.0]]
    assert dumps({"embeddings": vectors(lists)}) == (
        b'{"embeddings":[[0.6,-0.25,1e-7],[0.1,123456790.0,0.0]]}'
    )
    wire = json.loads(dumps([vectors([singles.tolist()])]))[0][0]
    assert np.array_equal(np.array(wire, np.float32), singles)
    assert dumps(vectors([])) == b"[]"


def test_a_document_with_vectors_survives_a_half_character() -> None:
    assert dumps({"model": "\ud800", "embeddings": vectors([[0.5]])}) == (
        '{"model":"\ufffd","embeddings":[[0.5]]}'.encode()
    )
