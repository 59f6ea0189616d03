"""Messages in the shape of vLLM's renderer, pictures out of bytes, and the switch for reasoning."""

import io
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from app.core.errors import InvalidRequest
from app.core.model import ThinkingLevels
from app.core.request import Message, PastToolCall, Think
from app.core.thinking import thinking_kwargs
from app.engine.vllm.input.messages import open_images, to_conversation


def picture(form: str, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    Image.new(mode, size, "white").save(data, form)
    return data.getvalue()


def open_image(data: bytes) -> Image.Image:
    (found,) = open_images([data], 0)
    return found


PICTURES = {form: picture(form) for form in ("PNG", "JPEG", "WEBP")}


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool", "", "weird"])
@pytest.mark.parametrize("content", ["", "Hi", " two\nlines \u2028", "[img] <|im_end|>"])
def test_plain_text_is_passed_on_as_one_string(role: str, content: str) -> None:
    assert to_conversation((Message.of(role, content),)) == [{"role": role, "content": content}]


def test_messages_keep_their_order_even_of_the_same_role() -> None:
    texts = ["a", "b", "b", "c"]
    found = to_conversation(tuple(Message.of("user", each) for each in texts))
    assert [each["content"] for each in found] == texts


def test_the_reasoning_of_an_earlier_answer() -> None:
    (found,) = to_conversation((Message.of("assistant", "Hi", thinking="Hm."),))
    assert found == {"role": "assistant", "content": "Hi", "reasoning": "Hm."}


def test_calls_and_their_results() -> None:
    calls = (PastToolCall("f", {"b": 1, "a": {"z": [None]}}, "call_1"), PastToolCall("g", {}))
    said, result = to_conversation(
        (
            Message.of("assistant", "", tool_calls=calls),
            Message.of("tool", "22", tool_name="f", tool_call_id="call_1"),
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
        (Message.of("tool", "22"), {}),
        (Message.of("tool", "22", tool_name="f"), {"name": "f"}),
        (Message.of("tool", "22", tool_call_id="call_1"), {"tool_call_id": "call_1"}),
    ],
)
def test_a_result_says_only_what_was_said_of_it(result: Message, named: dict[str, str]) -> None:
    assert to_conversation((result,)) == [{"role": "tool", "content": "22", **named}]


def test_pictures_come_before_the_text_in_their_order() -> None:
    sizes = [(2, 3), (4, 5)]
    images = tuple(picture("PNG", size) for size in sizes)
    (found,) = to_conversation((Message.of("user", "See?", images=images),), open_images(images, 0))
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
    with pytest.raises(InvalidRequest, match="too many pixels"):
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


def test_pictures_over_several_messages_stay_with_theirs() -> None:
    sizes = [(2, 3), (4, 5), (6, 7)]
    files = tuple(picture("PNG", size) for size in sizes)
    asked = (
        Message.of("user", "a", images=files[:1]),
        Message.of("user", "b"),
        Message.of("user", "c", images=files[1:]),
    )
    first, plain, last = to_conversation(asked, open_images(files, 0))
    assert plain["content"] == "b"
    assert [part["image_pil"].size for part in first["content"][:-1]] == sizes[:1]
    assert [part["image_pil"].size for part in last["content"][:-1]] == sizes[1:]


def test_pictures_that_are_too_many_pixels_in_sum_are_refused_by_their_heads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F5: nothing is decoded, however small the files are."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    bomb = picture("PNG", (2000, 1000), "1")
    assert len(bomb) < 3000
    with pytest.raises(InvalidRequest) as refused:
        open_images([bomb] * 3, 5_000_000)
    assert str(refused.value) == "images: at most 5000000 pixels, this request has 6000000"


def test_as_many_pixels_as_may_be_are_decoded() -> None:
    assert len(open_images([picture("PNG", (100, 50))] * 2, 10_000)) == 2


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB"])
@pytest.mark.parametrize(("width", "height"), [(32, 32_768), (32_768, 32), (1, 1 << 20), (1 << 20, 1)])
def test_a_picture_far_longer_than_wide_is_refused_by_its_head(
    monkeypatch: pytest.MonkeyPatch, mode: str, width: int, height: int
) -> None:
    """F24: a processor takes far longer for it than for a square of as many pixels, which is served."""
    square, data = (picture("PNG", size, mode) for size in ((1024, 1024), (width, height)))
    assert len(open_images([square], 1 << 20, 200)) == 1
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(InvalidRequest) as refused:
        open_images([square, data], 2 << 20, 200)
    assert str(refused.value) == (
        f"images: at most 200 times as long as wide, this request has a picture of {width} x {height} pixels"
    )


def test_a_picture_as_long_as_may_be_is_decoded() -> None:
    assert len(open_images([picture("PNG", (5, 1000))], 0, 200)) == 1
    assert len(open_images([picture("PNG", (1, 3000))], 0, 0)) == 1


def with_texts(count: int, chars: int) -> bytes:
    """A picture with texts, which are packed."""
    texts = PngImagePlugin.PngInfo()
    for number in range(count):
        texts.add_text(f"t{number}", "x" * chars, zip=True)
    data = io.BytesIO()
    Image.new("RGB", (6, 4)).save(data, "PNG", pnginfo=texts)
    return data.getvalue()


def test_what_a_picture_says_of_itself_is_not_kept() -> None:
    """F5: texts are packed a thousand times smaller than they come out."""
    (found,) = open_images([with_texts(3, 1000)], 0)
    assert isinstance(found, PngImagePlugin.PngImageFile)
    assert (found.info, found.text) == ({}, {})
    with pytest.raises(InvalidRequest, match="damaged"):
        open_images([with_texts(8, 900_000)], 0)


def test_which_way_is_up_is_kept() -> None:
    data, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(data, "JPEG", exif=exif)
    assert ImageOps.exif_transpose(open_image(data.getvalue())).size == (4, 6)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_a_picture_that_moves_the_first_frame_is_decoded(form: str) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "green", "blue")]
    data = io.BytesIO()
    frames[0].save(data, form, save_all=True, append_images=frames[1:], lossless=True)
    found = open_image(data.getvalue())
    assert found.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("data", [b"", b"GIF89a", *(data[:-40] for data in PICTURES.values())])
def test_errors_are_in_our_own_words(data: bytes) -> None:
    """F20: what Pillow says holds the address of an object."""
    with pytest.raises(InvalidRequest) as refused:
        open_image(data)
    assert not re.search("0x|<|BytesIO", str(refused.value))
