"""What the fields of a request for a response may hold at most, told before anything is made of them."""

from typing import Any

from app.api.bounds import items, refuse_nested, written_bytes
from app.core.limits import InputLimits, refuse_over
from app.core.request import Json

_CALLS = frozenset({"function_call", "custom_tool_call", "local_shell_call", "tool_search_call"})


def refuse_over_limits(value: Json, body_bytes: int, limits: InputLimits) -> None:
    """Refuse a request for what it has too much of. Other faults are for whoever reads the field.

    Raises:
        InvalidRequest: naming the field, the limit and what came.
    """
    if not isinstance(value, dict):
        return
    tools: list[Any] = []
    counted = _Count()
    for name, item in value.items():  # in every spelling, since Go reads each in turn
        folded = name.lower()
        refuse_nested(folded, item, limits)
        match folded:
            case "tools":
                tools += items(item)
            case "text":
                refuse_over("text.format", limits.schema_bytes, written_bytes(item), " bytes of JSON")
            case _:
                counted.walk(item)
        if folded == "input":
            refuse_over("input", limits.messages, len(items(item)))
            for each in items(item):
                tools += items(each.get("tools")) if isinstance(each, dict) else ()
    refuse_over("tools", limits.tools, sum(_tool_count(tool) for tool in tools))
    refuse_over("tools", limits.tool_bytes, written_bytes(tools), " bytes of JSON")
    refuse_over("images", limits.images, counted.pictures)
    refuse_over("tool calls", limits.tool_calls, counted.calls)
    in_pictures = counted.picture_chars
    refuse_over("request body", limits.body_bytes, body_bytes - in_pictures, " bytes besides pictures")
    refuse_over("text", limits.text_chars, counted.text_chars, " characters")


class _Count:
    """What there is in all fields that a prompt or the answer's echo is made of."""

    def __init__(self) -> None:
        self.text_chars = self.pictures = self.picture_chars = self.calls = 0

    def walk(self, value: Json) -> None:
        pending: list[tuple[str, Json]] = [("", value)]
        while pending:
            name, node = pending.pop()
            if isinstance(node, str):
                self._string(name, node)
            elif isinstance(node, dict):
                pending += ((key.lower(), item) for key, item in node.items())
            elif isinstance(node, list):
                pending += (("", item) for item in node)

    def _string(self, name: str, text: str) -> None:
        if name == "image_url":
            self.pictures += 1
            self.picture_chars += len(text)
            return
        self.calls += name == "type" and text in _CALLS
        self.text_chars += len(text)


def _tool_count(tool: Json) -> int:
    """A namespace is as many tools as it holds."""
    inner = tool.get("tools") if isinstance(tool, dict) else None
    return max(1, len(items(inner)))
