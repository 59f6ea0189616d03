"""A conversation in the shape that vLLM's chat renderer takes, and pictures out of their bytes."""

import io
from typing import Any

from PIL import Image, UnidentifiedImageError

from app.core.errors import InvalidRequest
from app.core.model import ThinkingLevels
from app.core.request import Message, Think

EFFORT = "reasoning_effort"
"""The variable of templates that know levels; others have a switch."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Pillow reads many more, and runs other programs for some of them."""


def to_conversation(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """OpenAI-style messages; text stays one string, so that no template joins it in a new way."""
    return [_to_dict(message) for message in messages]


def _to_dict(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        parts: list[dict[str, Any]] = [
            {"type": "image_pil", "image_pil": open_image(image)} for image in message.images
        ]
        found["content"] = [*parts, {"type": "text", "text": message.content}]
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


def open_image(data: bytes) -> Image.Image:
    """Decode a picture in full, so that a broken one fails here and not inside the engine.

    Raises:
        InvalidRequest: when the bytes are no picture that can be read, or one too large to be meant.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        image.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidRequest(f"failed to decode image: {error}") from error
    return image


def thinking_kwargs(
    variable: str | None, think: Think, levels: ThinkingLevels | None = None
) -> dict[str, Any]:
    """What the chat template's own switch is set to, and its level where it has names for that.

    None leaves a thinking model at Ollama's default, on.
    """
    if variable is None:
        return {}
    if variable != EFFORT:
        named = levels is not None and think in levels.values and isinstance(think, str)
        return {variable: think is not False, **({EFFORT: think} if named else {})}
    if think is False:
        return {EFFORT: "none"}
    default = levels.default if levels is not None else True
    return {EFFORT: next((level for level in (think, default) if isinstance(level, str)), "medium")}
