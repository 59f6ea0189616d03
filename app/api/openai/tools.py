"""Which tools there are and whether they must be called, as requests of OpenAI's API say it."""

from collections.abc import Mapping, Sequence

from app.core.errors import InvalidRequest
from app.core.request import Json, ToolChoice
from app.golang.quote import quoted

_WRONG_CHOICE = (
    'tool_choice must be "none", "auto", "required" or {"type": "function", "function": {"name": ...}}'
)


def read_choice(value: Json) -> ToolChoice:
    """Raises `InvalidRequest` for what is no choice."""
    match value:
        case None | "auto":
            return ToolChoice()
        case "none":
            return ToolChoice("none")
        case "required":
            return ToolChoice("required")
        case {"type": "function", "function": {"name": str(name)}} if name:
            return ToolChoice("required", name)
        case _:
            raise InvalidRequest(_WRONG_CHOICE)


def schemas_of(sent: Sequence[Json]) -> Mapping[str, Json]:
    """What the arguments of each function must be, by its name, as the client wrote it.

    Raises:
        InvalidRequest: for a tool that is no function.
    """
    found: dict[str, Json] = {}
    for at, tool in enumerate(sent):
        if not isinstance(tool, dict):
            continue
        kind = tool.get("type") or "function"
        if kind != "function":
            raise InvalidRequest(f"tools[{at}]: {quoted(str(kind))} is no kind of tool here; use functions")
        function = tool.get("function")
        if isinstance(function, dict) and isinstance(name := function.get("name"), str):
            found[name] = function.get("parameters")
    return found
