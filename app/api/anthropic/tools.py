"""The tools of a request, and whether they must or may be called."""

from collections.abc import Mapping, Sequence

from app.api.anthropic.schema import Choice, Tool
from app.api.tools import PARAMETERS
from app.core.errors import InvalidRequest
from app.core.request import Json, ToolChoice
from app.golang.quote import quoted
from app.golang.types import parse

_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "integer"}


def _schema(required: str, **properties: Json) -> Json:
    return {"type": "object", "required": [required], "properties": properties}


def _commands(*names: str) -> Json:
    return {"type": "string", "enum": list(names)}


_EDITS: Mapping[str, Json] = {
    "path": {**_TEXT, "description": "Absolute path of a file or folder."},
    "view_range": {"type": "array", "items": _NUMBER, "description": "First and last line to view, from 1."},
    "file_text": {**_TEXT, "description": "The whole file, for `create`."},
    "old_str": {**_TEXT, "description": "Text that stands in the file once, for `str_replace`."},
    "new_str": {**_TEXT, "description": "What `str_replace` puts in its place."},
    "insert_line": {**_NUMBER, "description": "Line after which to insert; 0 is the top."},
    "insert_text": {**_TEXT, "description": "The text to insert."},
}

_CLIENTS: Mapping[str, tuple[str, Json]] = {
    "bash_": (
        "Run a command in a shell that keeps its state between calls.",
        _schema(
            "command",
            command={**_TEXT, "description": "The command to run."},
            restart={"type": "boolean", "description": "Start the shell anew instead."},
        ),
    ),
    "text_editor_": (
        "View, create and edit text files.",
        _schema("command", command=_commands("view", "create", "str_replace", "insert"), **_EDITS),
    ),
    "memory_": (
        "Keep notes in files below /memories, and read them in later conversations.",
        _schema(
            "command",
            command=_commands("view", "create", "str_replace", "insert", "delete", "rename"),
            **_EDITS,
            old_path={**_TEXT, "description": "The path to rename."},
            new_path={**_TEXT, "description": "What `rename` makes of it."},
        ),
    ),
}
"""Tools of Anthropic's own that the client runs, by the beginning of their types: a description and what they
take, which Anthropic's models know by heart."""

_BUILT_IN = {"web_search_": "web_search", "web_fetch_": "web_fetch"}
"""Tools that a server runs by itself and that this one has too, by the beginning of their types."""

_SERVERS = ("code_execution_", "tool_search_tool_", "mcp_toolset", "advisor_")
"""Beginnings of the types of the others."""

_SCREENS = ("computer_", "browser_")
"""Beginnings of the types of tools that only models trained for them can use."""


def to_functions(tools: Sequence[Tool]) -> tuple[Mapping[str, Json], ...]:
    """The tools in the form of `ChatPrompt.tools`.

    Raises:
        InvalidRequest: for a schema that is none, and for a tool that cannot be offered.
    """
    return tuple(_function(tool) for tool in tools if not _built_in(tool))


def to_schemas(tools: Sequence[Tool]) -> Mapping[str, Json]:
    """What the arguments of each of the client's own tools must be, by its name, as the client wrote it."""
    return {tool.name: tool.input_schema for tool in tools if tool.input_schema is not None}


def to_built_in(tools: Sequence[Tool]) -> tuple[frozenset[str], int | None]:
    """The built-in tools among these, by name, and how often they may be called together; None: any number.

    Raises:
        InvalidRequest: for a restriction that is not kept to.
    """
    mine = [tool for tool in tools if _built_in(tool)]
    for tool in mine:
        if tool.allowed_domains or tool.blocked_domains:
            raise InvalidRequest(f"tools: {tool.type} takes no allowed_domains or blocked_domains here")
        if not _from_anywhere(tool.url_sources):
            raise InvalidRequest(f"tools: {tool.type} takes no url_sources here but all of them")
    uses = [tool.max_uses for tool in mine]
    most = None if not uses or None in uses else sum(each for each in uses if each is not None)
    return frozenset(_built_in(tool) for tool in mine), most


def _from_anywhere(url_sources: Json) -> bool:
    """Whether every source of addresses is open, as each is unless it is named."""
    named = url_sources.values() if isinstance(url_sources, dict) else (url_sources,)
    return all(each is None or (isinstance(each, dict) and each.get("type") == "all") for each in named)


def _built_in(tool: Tool) -> str:
    """The built-in tool that is meant, "" where it is none."""
    return next((name for begin, name in _BUILT_IN.items() if tool.type.startswith(begin)), "")


def _function(tool: Tool) -> Mapping[str, Json]:
    refuse_servers(tool)
    if tool.type.startswith(_SCREENS):
        raise InvalidRequest(f"tools: {tool.type} is not offered here: it takes a model trained for it")
    description, schema = tool.description, tool.input_schema
    if schema is None:
        known = (found for begin, found in _CLIENTS.items() if tool.type.startswith(begin))
        description, schema = next(known, (description, None))
    described = {"description": description} if description else {}
    return {
        "type": "function",
        "function": {"name": tool.name, **described, "parameters": _parameters(tool.name, schema)},
    }


def refuse_servers(tool: Tool) -> None:
    """Refuse a tool that the server would run and that this one does not have.

    Raises:
        InvalidRequest: naming it.
    """
    if tool.type.startswith(_SERVERS):
        raise InvalidRequest(
            f"tools: {tool.type} is run by the server, and this one does not have it; leave it out"
        )


def _parameters(name: str, schema: Json) -> Json:
    try:
        return parse(PARAMETERS, schema)
    except InvalidRequest as error:
        raise InvalidRequest(f"invalid input_schema for tool {quoted(name)}: {error}") from None


def to_choice(asked: Choice | None, tools: Sequence[Tool]) -> ToolChoice:
    """Whether the model may call tools, or must.

    Raises:
        InvalidRequest: for a type that is none, and for a call that must be made of a tool that is not there.
    """
    match asked.type if asked else "auto":
        case "" | "auto":
            return ToolChoice()
        case "none":
            return ToolChoice("none")
        case "any" if tools:
            return ToolChoice("required")
        case "tool" if asked and asked.name in {tool.name for tool in tools}:
            return ToolChoice("required", asked.name)
        case "any":
            raise InvalidRequest("tool_choice: any needs tools, and this request has none")
        case "tool":
            name = quoted(asked.name if asked else "")
            raise InvalidRequest(f"tool_choice: this request has no tool {name}")
        case kind:
            raise InvalidRequest(f"tool_choice: type must be auto, any, tool or none, not {quoted(kind)}")
