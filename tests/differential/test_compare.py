"""How answers are compared: what is the same, and where what differs is said to be."""

import json
from typing import Any

import pytest

from scripts.differences import Row, matches
from tests.differential.compare import differences
from tests.differential.requests import Asked, requests
from tests.differential.servers import Answer

ASKED = Asked("chat/x", "tool", "/v1/chat/completions")
DRAWN = Asked("chat/x", "tool", "/v1/chat/completions", drawn=True)


def whole(status: int = 200, **document: Any) -> Answer:
    return Answer(status, "application/json", json.dumps(document))


def streamed(*chunks: Any) -> Answer:
    frames = [*(json.dumps(chunk) for chunk in chunks), "[DONE]"]
    return Answer(200, "text/event-stream", "".join(f"data: {frame}\n\n" for frame in frames))


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def found(ours: Answer, theirs: Answer, asked: Asked = ASKED) -> list[tuple[str, str, str]]:
    return [(each.path, each.ours, each.theirs) for each in differences(asked, ours, theirs)]


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ({"id": "a", "created": 1}, {"id": "b", "created": 2}, []),
        ({"id": "a"}, {"id": 1}, [("document.id", "str", "int")]),
        ({"logprob": -0.101}, {"logprob": -0.1}, []),
        ({"logprob": -0.2}, {"logprob": -0.1}, [("document.logprob", "-0.2", "-0.1")]),
        ({"a": [1, 2]}, {"a": [1]}, [("document.a[]", "2 items", "1 items")]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, [("document.a[].b", "1", "2")]),
        ({}, {"a": None}, [("document.a", "absent", "null")]),
        ({"a": "x"}, {"a": "\nx"}, [("document.a (white space)", '"x"', '"\\nx"')]),
        (
            {"a": '{"b":1}'},
            {"a": '{"b": 1}'},
            [("document.a (white space)", '"{\\"b\\":1}"', '"{\\"b\\": 1}"')],
        ),
        ({"a": "x"}, {"a": "y"}, [("document.a", '"x"', '"y"')]),
        ({"a": 1}, {"a": True}, [("document.a", "1", "true")]),
    ],
)
def test_what_differs_is_told_by_its_path(ours: Any, theirs: Any, expected: Any) -> None:
    assert found(whole(**ours), whole(**theirs)) == expected


def test_of_a_request_that_one_refuses_the_refusal_is_told_alone() -> None:
    refusal = whole(400, error={"message": "no"})
    assert found(whole(a=1), refusal) == [("status", "200", '"400 no"')]


def test_of_texts_that_are_drawn_only_types_are_compared() -> None:
    assert found(whole(content="a"), whole(content="b"), DRAWN) == []
    assert found(whole(content="a"), whole(content=None), DRAWN) == [("document.content", "str", "NoneType")]


def test_a_stream_is_the_same_however_its_text_is_cut() -> None:
    assert found(streamed(delta(content="ab")), streamed(delta(content="a"), delta(content="b"))) == []
    assert found(streamed(delta(content="a")), streamed(delta(content="b"))) == [
        ("stream.choices[].content", '"a"', '"b"')
    ]


def test_a_stream_tells_its_parts_in_one_order() -> None:
    one = streamed(delta(reasoning="r"), delta(content="c"))
    other = streamed(delta(content="c"), delta(reasoning="r"))
    assert found(one, other) == [("stream.order", '"reasoning content DONE"', '"content reasoning DONE"')]


def test_a_row_explains_what_all_its_patterns_match() -> None:
    row = Row("t", ("chat/*",), ("*.text",), "why", ours="absent", theirs="null|0")
    assert row.explains("chat/x", "a.text", "absent", "0")
    assert not row.explains("chat/x", "a.text", "absent", "1")
    assert not row.explains("raw/x", "a.text", "absent", "0")
    assert matches("a[].*", "a[].b")
    assert not matches("a[].*", "a.b")


def test_requests_have_names_of_their_own_and_are_many() -> None:
    names = [asked.name for asked in requests()]
    assert len(names) == len(set(names)) >= 200
