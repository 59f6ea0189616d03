"""Pictures out of base64, and the byte at which Go gives up."""

import base64
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.api.ollama import schema
from app.core.errors import InvalidRequest
from app.golang.types import decode_base64, parse


def refused(text: str) -> Any:
    return pytest.raises(InvalidRequest, match=f"^{re.escape(text)}$")


@pytest.mark.point(44, 45)
@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("!!", 0),
        ("data:image/png;base64,aGk=", 4),
        ("aGk", 0),
        ("aGkxa", 4),
        ("aGk*", 3),
        ("aGk=x", 4),
        ("aG=x", 2),
        ("aG=", 3),
        ("=", 0),
        ("a===", 1),
        ("aGk==", 4),
        ("aGé=", 2),
        ("aGkx\n!", 5),
        ("aGkx_-", 4),
    ],
)
def test_bad_base64_names_the_byte(text: str, at: int) -> None:
    with refused(f"illegal base64 data at input byte {at}"):
        parse(schema.GENERATE, {"images": [text]})
    with refused(f"illegal base64 data at input byte {at}"):
        parse(schema.CHAT, {"messages": [{"images": ["", text]}]})


@settings(deadline=None)
@given(st.binary(), st.lists(st.tuples(st.integers(0, 200), st.sampled_from("\r\n"))))
def test_base64_is_read_with_line_ends_anywhere(data: bytes, breaks: list[tuple[int, str]]) -> None:
    text = base64.b64encode(data).decode()
    for at, end in breaks:
        text = text[:at] + end + text[at:]
    assert decode_base64(text) == data


@settings(deadline=None)
@example("ZZZZ=")
@example("ZZZZ====")
@given(st.text("aZ+/=\r\n!é", max_size=12))
def test_any_text_is_base64_or_refused_with_a_byte_within_it(text: str) -> None:
    plain = text.replace("\r", "").replace("\n", "")
    if re.fullmatch("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", plain):
        assert decode_base64(text) == base64.b64decode(plain)
        return
    with pytest.raises(InvalidRequest) as refusal:
        decode_base64(text)
    assert 0 <= int(str(refusal.value).rpartition(" ")[2]) <= len(text.encode())
