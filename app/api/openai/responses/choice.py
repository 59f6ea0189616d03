"""`tool_choice`: whether the model may call tools, must, and which ones."""

from typing import Any

from app.api.openai.responses.tools import LOCAL_SHELL, TOOL_SEARCH, Toolbox
from app.core.errors import InvalidRequest
from app.core.request import Json, ToolChoice
from app.golang.quote import quoted


def read_choice(value: Json, toolbox: Toolbox) -> ToolChoice:
    """The choice, for tools among those of `toolbox`, of which only the allowed ones are kept.

    Raises:
        InvalidRequest: for a choice that is none, or of a tool that the request does not declare.
    """
    if value is None:
        return ToolChoice()
    if isinstance(value, str):
        return _mode(value)
    if not isinstance(value, dict):
        raise InvalidRequest("tool_choice must be a string or an object")
    kind = value.get("type")
    if kind == "allowed_tools":
        listed = value.get("tools")
        names = {_named(each, toolbox) for each in (listed if isinstance(listed, list) else [])}
        toolbox.keep(names)
        return _mode(value.get("mode", "auto"))
    return ToolChoice("required", _named(value, toolbox))


def _mode(value: Json) -> ToolChoice:
    match value:
        case "auto":
            return ToolChoice()
        case "none":
            return ToolChoice("none")
        case "required":
            return ToolChoice("required")
        case _:
            raise InvalidRequest(f"invalid tool_choice: {quoted(str(value))}")


def _named(value: Json, toolbox: Toolbox) -> str:
    """The name by which the model knows a tool that a choice names."""
    choice: dict[str, Any] = value if isinstance(value, dict) else {}
    kind, name, namespace = choice.get("type"), choice.get("name", ""), choice.get("namespace") or ""
    if kind in (TOOL_SEARCH, LOCAL_SHELL):
        name = kind
    elif kind not in ("function", "custom"):
        raise InvalidRequest(f"tool_choice: tools of type {quoted(str(kind))} cannot be chosen")
    known = toolbox.named(name, namespace) if isinstance(name, str) and isinstance(namespace, str) else ""
    if not known:
        raise InvalidRequest(f"tool_choice: there is no tool named {quoted(str(name))} in tools")
    return known
