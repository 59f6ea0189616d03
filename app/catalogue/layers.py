"""What the small JSON layers of a model say: parameters and messages, within the limits of a request."""

from collections.abc import Mapping
from typing import Any

import orjson

from app.catalogue.messages import read_message
from app.catalogue.parameters import read_parameters
from app.core.errors import BadManifest, InvalidRequest, OverLimit
from app.core.limits import DEFAULTS, InputLimits
from app.core.request import Message, Overrides


def read_params(text: str, limits: InputLimits = DEFAULTS) -> dict[str, Any]:
    """Raises:
    BadManifest: for what is no object.
    OverLimit: for more than a request may set.
    """
    found = _json(text or "{}", "the parameters")
    if not isinstance(found, dict):
        raise BadManifest("the parameters are not an object")
    stops = found.get("stop")
    stops = stops if isinstance(stops, list) else []
    keep_within("stop", limits.stop, len(stops))
    chars = sum(len(stop) for stop in stops if isinstance(stop, str))
    keep_within("stop", limits.stop_chars, chars, " characters together")
    values, chars = _measured(found, limits.nesting)
    keep_within("parameters", limits.options, values)
    keep_within("parameters", limits.text_chars, chars, " characters")
    return found


def read_messages(text: str, limits: InputLimits = DEFAULTS) -> tuple[Message, ...]:
    """Raises:
    BadManifest: for what is no list of messages.
    OverLimit: for more than a chat may have.
    """
    found = _json(text or "[]", "the messages")
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise BadManifest("the messages are not a list of objects")
    keep_within("messages", limits.messages, len(found))
    messages = tuple(map(read_message, found))
    keep_within("images", limits.images, sum(len(each.images) for each in messages))
    calls = [call.arguments for each in messages for call in each.tool_calls]
    keep_within("tool_calls", limits.tool_calls, len(calls))
    _measured(calls, limits.nesting, "tool_calls")
    return messages


def read_sampling(parameters: Mapping[str, Any]) -> tuple[Overrides, str]:
    """The sampling of a model's parameters, or what is wrong with them: nobody has checked them before."""
    try:
        return read_parameters(parameters), ""
    except InvalidRequest as error:
        return {}, str(error)


def keep_within(name: str, most: int, count: int, unit: str = "") -> None:
    """Raises: OverLimit: for a model that has `count` of something, of which it may have `most` (0: any)."""
    if 0 < most < count:
        raise OverLimit(f"{name}: at most {most}{unit}, this model has {count}")


def _measured(value: Any, nesting: int, name: str = "parameters") -> tuple[int, int]:
    """How many values there are at any depth, and the characters of all texts and keys."""
    values = chars = depth = 0
    level = [value]
    while level:
        if 0 < nesting < depth:
            raise OverLimit(f"{name}: at most {nesting} levels of nesting, this model has more")
        below: list[Any] = []
        for each in level:
            match each:
                case dict():
                    below += each.values()
                    chars += sum(map(len, each))
                case list():
                    below += each
                case str():
                    chars += len(each)
                case _:
                    pass
            values += not isinstance(each, dict | list) or not each
        level, depth = below, depth + 1
    return values, chars


def _json(text: str, what: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        raise BadManifest(f"{what} are not JSON") from None
