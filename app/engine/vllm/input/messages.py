"""A conversation in the shape that vLLM's chat renderer takes, and pictures out of their bytes."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from app.core.errors import InvalidRequest
from app.core.request import Message, Text

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Pillow reads many more, and runs other programs for some of them."""

_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, struct.error, zlib.error)
"""What Pillow raises for data that is not as it should be."""
_DAMAGED = "failed to decode image: its data is damaged or ends too early"
_USED = ("exif", "transparency")
"""What a picture says of itself that is looked at: which way is up, and what is seen through."""
# A picture's texts are packed: 64 MiB of them, Pillow's own limit, come out of 64 KiB.
PngImagePlugin.MAX_TEXT_MEMORY = 4 << 20


def to_conversation(
    messages: Sequence[Message], pictures: Sequence[Image.Image] = ()
) -> list[dict[str, Any]]:
    """OpenAI-style messages; text stays one string, so that no template joins it in a new way.

    `pictures` are those of all messages, in their order.
    """
    left = iter(pictures)
    return [_to_dict(message, left) for message in messages]


def _to_dict(message: Message, pictures: Iterator[Image.Image]) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.images:
        found["content"] = [
            {"type": "text", "text": part.text}
            if isinstance(part, Text)
            else {"type": "image_pil", "image_pil": next(pictures)}
            for part in message.parts
        ]
    if message.thinking:
        found["reasoning"] = message.thinking
    if message.tool_calls:
        found["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_name:
        found["name"] = message.tool_name
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    return found


def open_images(files: Sequence[bytes], most_pixels: int, most_ratio: int = 0) -> list[Image.Image]:
    """Decode pictures in full, so that a broken one fails here and not inside the engine.

    All heads are read before any picture is decoded: together they may have `most_pixels`, and the long
    side of each may be `most_ratio` times its short one (0: any number). A processor takes many times as long
    for a line of one pixel's width as for a square of as many pixels.

    Raises:
        InvalidRequest: when some bytes are no picture that can be read, or are too large or too long a one.
    """
    images = [_open(data) for data in files]
    pixels = sum(image.width * image.height for image in images)
    if 0 < most_pixels < pixels:
        raise InvalidRequest(f"images: at most {most_pixels} pixels, this request has {pixels}")
    for image in images:
        if 0 < most_ratio * min(image.size) < max(image.size):
            raise InvalidRequest(
                f"images: at most {most_ratio} times as long as wide, this request has a picture of "
                f"{image.width} x {image.height} pixels"
            )
    for image in images:
        _decode(image)
    return images


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise InvalidRequest(
            "failed to decode image: it is no PNG, JPEG, WebP, GIF or BMP picture"
        ) from error
    except Image.DecompressionBombError as error:
        raise InvalidRequest("failed to decode image: it has too many pixels") from error
    except _BROKEN as error:
        raise InvalidRequest(_DAMAGED) from error


def _decode(image: Image.Image) -> None:
    """The first frame, which is what models see of a picture that moves."""
    try:
        image.load()
    except _BROKEN as error:
        raise InvalidRequest(_DAMAGED) from error
    image.info = {name: image.info[name] for name in _USED if name in image.info}
    if isinstance(image, PngImagePlugin.PngImageFile):
        image.text.clear()
