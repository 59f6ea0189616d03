"""What the small JSON layers of a model say: its parameters and its messages."""

from collections.abc import Mapping
from typing import Any

import orjson

from app.catalogue.messages import read_message
from app.catalogue.parameters import read_parameters
from app.core.errors import BadManifest, InvalidRequest
from app.core.request import Message, Overrides


def read_params(text: str) -> dict[str, Any]:
    """Raises: BadManifest: for what is no object."""
    found = _json(text or "{}", "the parameters")
    if not isinstance(found, dict):
        raise BadManifest("the parameters are not an object")
    return found


def read_messages(text: str) -> tuple[Message, ...]:
    """Raises: BadManifest: for what is no list of messages."""
    found = _json(text or "[]", "the messages")
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise BadManifest("the messages are not a list of objects")
    return tuple(map(read_message, found))


def read_sampling(parameters: Mapping[str, Any]) -> tuple[Overrides, str]:
    """The sampling of a model's parameters, or what is wrong with them: nobody has checked them before."""
    try:
        return read_parameters(parameters), ""
    except InvalidRequest as error:
        return {}, str(error)


def _json(text: str, what: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        raise BadManifest(f"{what} are not JSON") from None
