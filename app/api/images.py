"""Pictures as APIs with URLs send them: a data URL that holds the file (docs/reference 13.1)."""

import re

from app.core.errors import InvalidRequest
from app.core.request import Image, RemoteImage
from app.golang.types import decode_base64

_PREFIX = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp))?;base64,")
NOT_FETCHED = "image URLs are not currently supported, please use base64 encoded data instead"


def read_image_url(url: str) -> Image | RemoteImage:
    """The picture; one at an address is fetched later, where the server does that (docs/tools.md).

    Raises:
        InvalidRequest: with Ollama's text, for what is neither an address nor a picture in base64.
    """
    if url.startswith(("http://", "https://")):
        return RemoteImage(url, NOT_FETCHED)
    found = _PREFIX.match(url)
    if found is None:
        raise InvalidRequest("invalid image input")
    return Image(read_image(url[found.end() :]))


def read_image(text: str) -> bytes:
    """A picture's file in base64. Raises `InvalidRequest` as `read_image_url` does."""
    try:
        return decode_base64(text)
    except InvalidRequest:
        raise InvalidRequest("invalid image input") from None
