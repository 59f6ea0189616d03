"""Content of messages and of tools' answers: texts and pictures in the order in which they were sent.

Ollama joins the texts of a message and has its pictures apart (docs/reference 14.2); here a picture stays
between the texts that it stood between.
"""

from collections.abc import Callable, Mapping
from typing import Any

from app.api.images import read_image_url
from app.api.openai.responses.schema import PART
from app.core.errors import InvalidRequest
from app.core.request import Json, Part, Text
from app.golang.quote import quoted
from app.golang.types import Mismatch


def read_content(value: Json, *, what: str = "content") -> tuple[Part, ...]:
    """The parts of a text, or of a list of pieces. `what` is the name of the field.

    Raises:
        InvalidRequest: for anything else, and for pieces that cannot be read here.
    """
    if value is None or isinstance(value, str):
        return (Text(value),) if value else ()
    if not isinstance(value, list):
        raise InvalidRequest(f"{what} must be a string or array: {Mismatch(value, '[]json.RawMessage')}")
    found: list[Part] = []
    for at, piece in enumerate(value):
        try:
            found += _read_piece(piece)
        except (InvalidRequest, Mismatch) as error:
            raise InvalidRequest(f"{what}[{at}]: {error}") from None
    return tuple(found)


def texts_of(value: Json) -> str:
    """The texts of a list of pieces, joined; empty for what is no list.

    Raises:
        InvalidRequest: for what are no texts.
    """
    if not isinstance(value, list):
        return ""
    return "".join(part.text for part in read_content(value) if isinstance(part, Text))


def _read_piece(piece: Json) -> tuple[Part, ...]:
    read = PART.read({} if piece is None else piece)
    kind = read.get("type", "")
    if kind not in _READERS:
        raise InvalidRequest(f"unknown content type: {quoted(kind)}")
    return _READERS[kind](read)


def _text(piece: Mapping[str, Any]) -> tuple[Part, ...]:
    text = piece.get("text", "")
    return (Text(text),) if text else ()


def _refusal(piece: Mapping[str, Any]) -> tuple[Part, ...]:
    text = piece.get("refusal", "")
    return (Text(text),) if text else ()


def _image(piece: Mapping[str, Any]) -> tuple[Part, ...]:
    return (read_image_url(piece.get("image_url", "")),)


def _file(_: Mapping[str, Any]) -> tuple[Part, ...]:
    raise InvalidRequest("file inputs are not currently supported")


_READERS: Mapping[str, Callable[[Mapping[str, Any]], tuple[Part, ...]]] = {
    "input_text": _text,
    "output_text": _text,
    "text": _text,
    "summary_text": _text,
    "reasoning_text": _text,
    "refusal": _refusal,
    "input_image": _image,
    "input_file": _file,
}
