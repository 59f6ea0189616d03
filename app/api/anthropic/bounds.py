"""What the fields of a Messages request may hold at most, told before anything is made of them."""

from app.api.bounds import items, refuse_nested, refuse_stops, written_bytes
from app.core.limits import InputLimits, refuse_over
from app.core.request import Json

_UNREAD = (
    *("type", "role", "id", "tool_use_id", "media_type", "cache_control"),
    *("signature", "encrypted_content", "encrypted_index"),
)
"""Keys of messages and blocks whose values are no text that a model sees."""


class _Counted:
    """What a request has of everything, whatever block it stands in."""

    def __init__(self) -> None:
        self.text_chars = 0
        self.pictures = 0
        self.picture_bytes = 0
        self.calls = 0

    def add(self, value: Json) -> None:
        """Count `value` and all in it; without recursion, since nobody has bounded its depth yet."""
        left = [value]
        while left:
            node = left.pop()
            if isinstance(node, str):
                self.text_chars += len(node)
            elif isinstance(node, list):
                left += node
            elif isinstance(node, dict):
                left += self._inner(node)

    def _inner(self, node: dict[str, Json]) -> list[Json]:
        """What counts as text of an object. Data in base64 is no text: a picture, or it is refused later."""
        kind = node.get("type")
        self.calls += kind == "tool_use" or kind == "server_tool_use"
        self.pictures += kind == "url"
        if kind == "base64" and isinstance(data := node.get("data"), str):
            self.pictures += 1
            self.picture_bytes += len(data)
            return []
        return [item for key, item in node.items() if key.lower() not in _UNREAD]


def refuse_over_limits(value: Json, body_bytes: int, limits: InputLimits) -> None:
    """Refuse a request for what it has too much of. Other faults are for whoever reads the field.

    Raises:
        InvalidRequest: naming the field, the limit and what came.
    """
    if not isinstance(value, dict):
        return
    counted = _Counted()
    for name, item in value.items():  # in every spelling, since Go reads each in turn
        folded = name.lower()
        _refuse_field(folded, item, limits)
        if folded in ("messages", "system"):
            counted.add(item)
    refuse_over("images", limits.images, counted.pictures)
    refuse_over("tool_use", limits.tool_calls, counted.calls)
    unread = counted.picture_bytes
    refuse_over("request body", limits.body_bytes, body_bytes - unread, " bytes besides pictures")
    refuse_over("text", limits.text_chars, counted.text_chars, " characters")


def _refuse_field(name: str, item: Json, limits: InputLimits) -> None:
    match name:
        case "messages" | "tools":
            refuse_over(name, getattr(limits, name), len(items(item)))
            refuse_nested(name, item, limits)
            if name == "tools":
                refuse_over(name, limits.tool_bytes, written_bytes(item), " bytes of JSON")
        case "output_config" | "output_format":
            refuse_nested(name, item, limits)
            refuse_over(name, limits.schema_bytes, written_bytes(item), " bytes of JSON")
        case "stop_sequences":
            refuse_stops(item, limits, name)
        case _:
            pass
