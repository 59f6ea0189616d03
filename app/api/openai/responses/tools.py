"""Tools of every kind as functions, and how a call of one goes back to the client (docs/reference 14.3).

The model knows functions alone. What the client declared otherwise is a function to it: a free-form tool has
one argument, `input`; a tool of a namespace has the name `namespace.tool`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from app.api.openai.responses.schema import TOOL_ENTRY
from app.api.tools import TOOL
from app.core.errors import InvalidRequest
from app.core.request import Json
from app.golang.quote import quoted
from app.golang.types import Mismatch

Kind: TypeAlias = Literal["function", "custom", "tool_search", "local_shell"]

TOOL_SEARCH, LOCAL_SHELL = "tool_search", "local_shell"

_INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
_QUERY = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
_COMMAND = {
    "type": "object",
    "properties": {
        "command": {"type": "array", "items": {"type": "string"}},
        "workdir": {"type": "string"},
        "timeout_ms": {"type": "integer"},
    },
    "required": ["command"],
}
_NOT_RUN_HERE = frozenset(
    {
        "apply_patch",
        "code_interpreter",
        "computer",
        "computer_use",
        "computer_use_preview",
        "file_search",
        "image_generation",
        "mcp",
        "programmatic_tool_calling",
        "shell",
    }
)


@dataclass(frozen=True, slots=True)
class Callee:
    """A tool as its client names it."""

    kind: Kind
    name: str
    namespace: str = ""


def visible_name(name: str, namespace: str = "") -> str:
    """What the model knows a tool by."""
    return f"{namespace}.{name}" if namespace else name


class Toolbox:
    """The tools of one request, in the order in which they were declared."""

    def __init__(self) -> None:
        self._specs: dict[str, Mapping[str, Json]] = {}
        self._schemas: dict[str, Json] = {}
        self._callees: dict[str, Callee] = {}
        self._bare: dict[str, list[str]] = {}
        """What the model knows the tools by that have a name, of whatever namespace."""
        self.built_in: frozenset[str] = frozenset()
        """The tools that the server itself runs."""

    @property
    def specs(self) -> tuple[Mapping[str, Json], ...]:
        """As `core.request.ChatPrompt` has them."""
        return tuple(self._specs.values())

    @property
    def schemas(self) -> Mapping[str, Json]:
        """What the arguments of each tool must be, by its name, as the client wrote it."""
        return {name: self._schemas[name] for name in self._specs}

    def add_all(self, tools: list[Json], where: str = "tools") -> None:
        """Take these in. A tool that is declared again, as searches do, replaces the one before.

        Raises:
            InvalidRequest: naming the place, for what is no tool that can be offered to the model.
        """
        for at, tool in enumerate(tools):
            try:
                self._add(TOOL_ENTRY.read({} if tool is None else tool))
            except (InvalidRequest, Mismatch) as error:
                raise InvalidRequest(f"{where}[{at}]: {error}") from None

    def callee(self, name: str) -> Callee:
        """The tool that the model means by `name`, which may lack its namespace where there is no doubt."""
        if name in self._callees:
            return self._callees[name]
        bare = self._bare.get(name, ())
        return self._callees[bare[0]] if len(bare) == 1 else Callee("function", name)

    def named(self, name: str, namespace: str = "") -> str:
        """What the model knows the tool by that a client means; empty where there is none."""
        wanted = visible_name(name, namespace)
        if wanted in self._specs:
            return wanted
        bare = () if namespace else self._bare.get(name, ())
        return bare[0] if len(bare) == 1 else ""

    def keep(self, names: set[str]) -> None:
        """Forget all others."""
        self._specs = {name: spec for name, spec in self._specs.items() if name in names}

    def _add(self, tool: Mapping[str, Any], namespace: str = "") -> None:
        kind = tool.get("type", "")
        if kind == "namespace" and not namespace:
            self._add_namespace(tool)
        elif kind in _ADDED:
            _ADDED[kind](self, tool, namespace)
        elif kind.startswith("web_search") and not namespace:
            self._search(tool)
        elif kind in _NOT_RUN_HERE:
            raise InvalidRequest(f"tools of type {quoted(kind)} are not supported by this server")
        else:
            raise InvalidRequest(f"unknown tool type: {quoted(kind)}")

    def _search(self, tool: Mapping[str, Any]) -> None:
        """The search that the server itself runs, where it has one (docs/tools.md)."""
        if tool.get("filters"):
            raise InvalidRequest("a web search takes no filters here")
        self.built_in = frozenset({"web_search"})

    def _add_namespace(self, tool: Mapping[str, Any]) -> None:
        """The description of a namespace stands before that of its first tool."""
        name, description = tool.get("name", ""), tool.get("description", "")
        if not name:
            raise InvalidRequest("a namespace needs a name")
        for at, each in enumerate(tool.get("tools", ())):
            try:
                inner = TOOL_ENTRY.read({} if each is None else each)
                if not at and description:
                    inner["description"] = "\n\n".join(filter(None, (description, inner.get("description"))))
                self._add(inner, name)
            except (InvalidRequest, Mismatch) as error:
                raise InvalidRequest(f"tools[{at}]: {error}") from None

    def _add_function(self, tool: Mapping[str, Any], namespace: str) -> None:
        self._offer("function", tool, namespace, tool.get("parameters"), tool.get("description", ""))

    def _add_custom(self, tool: Mapping[str, Any], namespace: str) -> None:
        description = "\n\n".join(filter(None, (tool.get("description"), _told_format(tool.get("format")))))
        self._offer("custom", tool, namespace, _INPUT, description)

    def _add_search(self, tool: Mapping[str, Any], _: str) -> None:
        if tool.get("execution") != "client":
            raise InvalidRequest(
                'tool_search is executed by the client alone: its "execution" must be "client"'
            )
        named = {**tool, "name": TOOL_SEARCH}
        description = tool.get("description") or "Search for tools that are not offered yet."
        self._offer("tool_search", named, "", tool.get("parameters") or _QUERY, description)

    def _add_shell(self, tool: Mapping[str, Any], _: str) -> None:
        named = {**tool, "name": LOCAL_SHELL}
        self._offer("local_shell", named, "", _COMMAND, "Run a command on the user's machine.")

    def _offer(
        self, kind: Kind, tool: Mapping[str, Any], namespace: str, parameters: Json, description: str
    ) -> None:
        name = tool.get("name", "")
        if not name:
            raise InvalidRequest(f"a {kind} tool needs a name")
        visible, callee = visible_name(name, namespace), Callee(kind, name, namespace)
        if self._callees.get(visible, callee) != callee:
            raise InvalidRequest(f"two different tools are named {quoted(visible)}")
        function = {"name": visible, "description": description, "parameters": parameters}
        if visible not in self._callees:
            self._bare.setdefault(name, []).append(visible)
        self._specs[visible] = TOOL.read({"type": "function", "function": function})
        self._schemas[visible], self._callees[visible] = parameters, callee


def _told_format(value: Json) -> str:
    """A grammar is told to the model: nothing keeps a call's argument to it.

    Raises:
        InvalidRequest: for a format that is none.
    """
    given = {} if value is None else value
    if not isinstance(given, dict):
        raise InvalidRequest("the format of a custom tool must be an object")
    match given.get("type", "text"):
        case "text":
            return ""
        case "grammar":
            syntax, definition = given.get("syntax"), given.get("definition")
            if syntax not in ("lark", "regex") or not isinstance(definition, str):
                raise InvalidRequest('a grammar needs a "syntax" (lark or regex) and a "definition"')
            return f"The input must match this {syntax} grammar:\n{definition}"
        case other:
            raise InvalidRequest(f"unknown format of a custom tool: {quoted(str(other))}")


_ADDED: Mapping[str, Callable[[Toolbox, Mapping[str, Any], str], None]] = {
    "function": Toolbox._add_function,  # pyright: ignore[reportPrivateUsage]
    "custom": Toolbox._add_custom,  # pyright: ignore[reportPrivateUsage]
    "tool_search": Toolbox._add_search,  # pyright: ignore[reportPrivateUsage]
    "local_shell": Toolbox._add_shell,  # pyright: ignore[reportPrivateUsage]
}
