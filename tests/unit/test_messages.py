"""Messages in the shape of vLLM's renderer, pictures out of bytes, and the switch for reasoning."""

import io
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.core.errors import InvalidRequest
from app.core.model import ThinkingLevels
from app.core.request import Message, PastToolCall, Think
from app.engine.vllm.messages import open_image, thinking_kwargs, to_conversation


def picture(form: str, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    Image.new(mode, size, "white").save(data, form)
    return data.getvalue()


PICTURES = {form: picture(form) for form in ("PNG", "JPEG", "WEBP")}


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool", "", "weird"])
@pytest.mark.parametrize("content", ["", "Hi", " two\nlines \u2028", "[img] <|im_end|>"])
def test_plain_text_is_passed_on_as_one_string(role: str, content: str) -> None:
    assert to_conversation((Message(role, content),)) == [{"role": role, "content": content}]


def test_messages_keep_their_order_even_of_the_same_role() -> None:
    texts = ["a", "b", "b", "c"]
    found = to_conversation(tuple(Message("user", each) for each in texts))
    assert [each["content"] for each in found] == texts


def test_the_reasoning_of_an_earlier_answer() -> None:
    (found,) = to_conversation((Message("assistant", "Hi", thinking="Hm."),))
    assert found == {"role": "assistant", "content": "Hi", "reasoning": "Hm."}


def test_calls_and_their_results() -> None:
    calls = (PastToolCall("f", {"b": 1, "a": {"z": [None]}}, "call_1"), PastToolCall("g", {}))
    said, result = to_conversation(
        (
            Message("assistant", "", tool_calls=calls),
            Message("tool", "22", tool_name="f", tool_call_id="call_1"),
        )
    )
    first, second = said["tool_calls"]
    assert first == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": {"b": 1, "a": {"z": [None]}}},
    }
    assert list(first["function"]["arguments"]) == ["b", "a"]
    assert second == {"id": "", "type": "function", "function": {"name": "g", "arguments": {}}}
    assert result == {"role": "tool", "content": "22", "name": "f", "tool_call_id": "call_1"}


@pytest.mark.point(150)
@pytest.mark.parametrize(
    ("result", "named"),
    [
        (Message("tool", "22"), {}),
        (Message("tool", "22", tool_name="f"), {"name": "f"}),
        (Message("tool", "22", tool_call_id="call_1"), {"tool_call_id": "call_1"}),
    ],
)
def test_a_result_says_only_what_was_said_of_it(result: Message, named: dict[str, str]) -> None:
    assert to_conversation((result,)) == [{"role": "tool", "content": "22", **named}]


def test_pictures_come_before_the_text_in_their_order() -> None:
    sizes = [(2, 3), (4, 5)]
    images = tuple(picture("PNG", size) for size in sizes)
    (found,) = to_conversation((Message("user", "See?", images=images),))
    *parts, text = found["content"]
    assert [(part["type"], part["image_pil"].size) for part in parts] == [("image_pil", s) for s in sizes]
    assert text == {"type": "text", "text": "See?"}


@pytest.mark.parametrize("data", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_decoded_in_full(data: bytes) -> None:
    found = open_image(data)
    assert found.size == (6, 4)
    assert found.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "I;16"])
def test_pictures_of_other_colours(mode: str) -> None:
    data = io.BytesIO()
    Image.new(mode, (3, 3)).save(data, "PNG")
    assert open_image(data.getvalue()).size == (3, 3)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WAVEfmt "])
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^failed to decode image: \S"):
        open_image(data)


@pytest.mark.parametrize("form", ["TIFF", "EPS", "PPM", "PDF"])
def test_a_format_that_no_client_should_send(form: str) -> None:
    with pytest.raises(InvalidRequest, match="failed to decode image"):
        open_image(picture(form))


@pytest.mark.parametrize("data", [picture(form, (64, 64)) for form in PICTURES], ids=PICTURES)
def test_a_picture_that_ends_too_early(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="failed to decode image"):
        open_image(data[: len(data) // 2])


def test_a_picture_too_large_to_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InvalidRequest, match="decompression bomb"):
        open_image(picture("PNG", (15, 15)))


@given(form=st.sampled_from(sorted(PICTURES)), data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_picture_opens_or_is_refused(form: str, data: st.DataObject) -> None:
    damaged = bytearray(PICTURES[form])
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=6)):
        damaged[at] = data.draw(st.integers(0, 255))
    with suppress(InvalidRequest):
        assert open_image(bytes(damaged)).size > (0, 0)


LEVELS = ThinkingLevels((False, "low", "high"), "high")


@pytest.mark.parametrize(
    ("variable", "think", "expected"),
    [
        (None, None, {}),
        (None, True, {}),
        ("enable_thinking", None, {"enable_thinking": True}),
        ("enable_thinking", True, {"enable_thinking": True}),
        ("enable_thinking", False, {"enable_thinking": False}),
        ("enable_thinking", "low", {"enable_thinking": True}),
        ("thinking", False, {"thinking": False}),
        ("reasoning_effort", None, {"reasoning_effort": "medium"}),
        ("reasoning_effort", True, {"reasoning_effort": "medium"}),
        ("reasoning_effort", "low", {"reasoning_effort": "low"}),
        ("reasoning_effort", "high", {"reasoning_effort": "high"}),
        ("reasoning_effort", "max", {"reasoning_effort": "max"}),
        ("reasoning_effort", False, {"reasoning_effort": "none"}),
    ],
)
def test_the_switch_of_the_template(variable: str | None, think: Think, expected: dict[str, Any]) -> None:
    assert thinking_kwargs(variable, think) == expected


@pytest.mark.parametrize(
    ("variable", "levels", "think", "expected"),
    [
        ("reasoning_effort", LEVELS, True, {"reasoning_effort": "high"}),
        ("reasoning_effort", LEVELS, None, {"reasoning_effort": "high"}),
        ("reasoning_effort", LEVELS, "low", {"reasoning_effort": "low"}),
        ("reasoning_effort", LEVELS, False, {"reasoning_effort": "none"}),
        ("enable_thinking", LEVELS, "low", {"enable_thinking": True, "reasoning_effort": "low"}),
        ("enable_thinking", LEVELS, True, {"enable_thinking": True}),
        ("enable_thinking", LEVELS, False, {"enable_thinking": False}),
        ("enable_thinking", ThinkingLevels((False, True), True), "low", {"enable_thinking": True}),
    ],
)
def test_the_level_of_a_template_that_knows_levels(
    variable: str, levels: ThinkingLevels, think: Think, expected: dict[str, Any]
) -> None:
    assert thinking_kwargs(variable, think, levels) == expected
