"""What a JSON text would take once decoded is told before it is (F7)."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import InvalidRequest
from app.core.limits import DEFAULTS, UNLIMITED, InputLimits
from app.golang import jsonsize
from app.golang.json import decode

TEXTS = st.text(alphabet='a,[]{}":\\é\U0001f600', max_size=6)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)


def sizes(value: Any) -> tuple[int, int]:
    """How many values there are in `value`, and how many of them hold others."""
    if not isinstance(value, dict | list):
        return 1, 0
    inner = [sizes(item) for item in (value.values() if isinstance(value, dict) else value)]
    return 1 + sum(values for values, _ in inner), 1 + sum(holding for _, holding in inner)


@pytest.fixture(params=[1, 2, 7, 64], ids=lambda size: f"chunks of {size}")
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonsize, "_CHUNK_BYTES", request.param)


@pytest.mark.usefixtures("_chunks")
@settings(deadline=None, max_examples=60)
@given(JSON, st.booleans())
def test_no_value_escapes_being_counted_and_no_text_is_taken_for_values(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    values, containers = sizes(value)
    jsonsize.refuse_large(body, InputLimits(json_values=2 * values, json_containers=containers))
    if containers > 1:
        with pytest.raises(InvalidRequest, match="objects and lists"):
            jsonsize.refuse_large(body, InputLimits(json_containers=containers - 1))
    if values > 1:
        with pytest.raises(InvalidRequest, match=f"at most {values - 1} values"):
            jsonsize.refuse_large(body, InputLimits(json_values=values - 1))


@pytest.mark.usefixtures("_chunks")
@settings(deadline=None, max_examples=60)
@given(st.lists(TEXTS.map(lambda text: text * 3), max_size=5), st.booleans())
def test_text_that_takes_four_bytes_a_character_is_bounded(texts: list[str], ascii_only: bool) -> None:
    body = json.dumps(texts, ensure_ascii=ascii_only).encode()
    wide = sum(
        len(json.dumps(text, ensure_ascii=ascii_only).encode()) - 2 for text in texts if not text.isascii()
    )
    jsonsize.refuse_large(body, InputLimits(body_bytes=wide + 1))
    if wide > 2 * sum(text.count('"') + text.count("\\") for text in texts) + 1:
        with pytest.raises(InvalidRequest, match="bytes of text"):
            jsonsize.refuse_large(body, InputLimits(body_bytes=1))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"' + b"Hello, [you] {there}, " * 300_000 + b'"}',
        b'{"a":"' + b"QUJDRA" * 10_000_000 + b'"}',
        json.dumps({"messages": [{"role": "user", "content": "x, [y]" * 300}] * 2_000}).encode(),
    ],
    ids=["text", "picture", "chat"],
)
def test_texts_full_of_commas_and_brackets_pass(body: bytes) -> None:
    jsonsize.refuse_large(body, DEFAULTS)
    with pytest.raises(InvalidRequest):
        jsonsize.refuse_large(body, InputLimits(body_bytes=1, json_values=1, json_containers=1))


@pytest.mark.parametrize(
    "unit", [b'"",', b"1,", b"{},", b'"\\u00e9",', b'{"a":', b"[", b'\\"', b'"\\\\', b'"\xc3', b" "]
)
def test_counting_and_refusing_takes_work_in_proportion(unit: bytes) -> None:
    """F7: whatever the bytes are, well-formed or not; Go's words for what is wrong included."""

    def work(size: int) -> float:
        body, began_s = b'{"x":[' + unit * (size // len(unit)), time.thread_time()
        with pytest.raises(InvalidRequest):
            decode(body, InputLimits(json_values=size, json_containers=size))
        return time.thread_time() - began_s

    work(1 << 10)
    once = min(work(1 << 16) for _ in range(3))
    assert work(1 << 17) < 3 * once + 0.05


def test_nothing_is_counted_without_limits() -> None:
    body = b'["\xff", [[[[[' * 1000
    jsonsize.refuse_large(body, UNLIMITED)
    with pytest.raises(InvalidRequest):
        jsonsize.refuse_large(body, InputLimits(json_containers=10))
