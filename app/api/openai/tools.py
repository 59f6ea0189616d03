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
        case {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list()},
        }:
            return ToolChoice("auto" if mode == "auto" else "required")
        case _:
            raise InvalidRequest(_WRONG_CHOICE)


def allowed(seen: Sequence[dict[str, Json]], choice: Json) -> tuple[dict[str, Json], ...]:
    """The tools that a choice of `allowed_tools` leaves; any other leaves all. `choice` was read before."""
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return tuple(seen)
    functions = [tool.get("function") for tool in choice["allowed_tools"]["tools"] if isinstance(tool, dict)]
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    known = {name for name in names if isinstance(name, str)}
    return tuple(tool for tool in seen if tool["function"]["name"] in known)


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
