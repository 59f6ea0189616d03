"""The items of `input`, each as what it is to a conversation (docs/reference 14.2).

A call of a function, of a free-form tool, of the client's shell or for more tools is a `Call` here and what
came of it an `Output`, named as the model knows the tool.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from app.api.bounds import refuse_nested
from app.api.openai.responses.content import read_content, texts_of
from app.api.openai.responses.payload import SUMMARY_TOOL, read_payload
from app.api.openai.responses.schema import ITEM
from app.api.openai.responses.tools import LOCAL_SHELL, TOOL_SEARCH, visible_name
from app.api.wire import dumps
from app.core.errors import InvalidRequest
from app.core.limits import InputLimits
from app.core.request import Image, Json, Part, Text
from app.golang.json import decode
from app.golang.quote import quoted
from app.golang.types import Mismatch

TRIGGER = "compaction_trigger"


@dataclass(frozen=True, slots=True)
class Said:
    """A message; `role` is `system` for what the developer says too."""

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Thought:
    """The reasoning before the assistant's next message or call."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call, by the name that the model knows. `summarises` is one that stands for a compaction."""

    call_id: str
    name: str
    arguments: Mapping[str, Json]
    summarises: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """What a tool answered."""

    call_id: str
    parts: tuple[Part, ...]
    summarises: bool = False


Item: TypeAlias = Said | Thought | Call | Output


@dataclass(slots=True)
class Conversation:
    """What `input` holds. `tools` are those that it declares itself, each list with the place of it.

    `is_compacted_next`: its last item asks for a compaction. `places[i]` is where in `input` item i is.
    """

    items: list[Item] = field(default_factory=list[Item])
    places: list[int] = field(default_factory=list[int])
    tools: list[tuple[str, list[Json]]] = field(default_factory=list[tuple[str, list[Json]]])
    is_compacted_next: bool = False

    def add(self, place: int, items: Sequence[Item]) -> None:
        self.items += items
        self.places += [place] * len(items)


def read_input(value: Json, limits: InputLimits) -> Conversation:
    """The conversation of an `input`.

    Raises:
        InvalidRequest: with Ollama's text where it has one, else naming the item and what is wrong with it.
    """
    found = Conversation()
    if value is None or isinstance(value, str):
        found.add(0, [Said("user", (Text(value),))] if value else [])
        return found
    if not isinstance(value, list):
        raise InvalidRequest(f"input must be a string or array: {Mismatch(value, '[]json.RawMessage')}")
    reader = _Reader(found, limits)
    for at, item in enumerate(value):
        if found.is_compacted_next:
            raise InvalidRequest("compaction_trigger must be the final and only compaction trigger")
        try:
            reader.read(at, item)
        except (InvalidRequest, Mismatch) as error:
            raise InvalidRequest(f"input[{at}]: {error}") from None
    reader.forget()
    return found


class _Reader:
    """Reads items one after another."""

    def __init__(self, found: Conversation, limits: InputLimits) -> None:
        self._found = found
        self._limits = limits
        self._at = 0
        self._summaries = set[int]()

    def read(self, at: int, item: Json) -> None:
        self._at = at
        read = ITEM.read({} if item is None else item)
        kind = read.get("type") or ("message" if read.get("role") else "")
        if not kind:
            raise InvalidRequest("input item missing required 'type' field")
        if kind not in _READERS:
            raise InvalidRequest(f"unknown input item type: {quoted(kind)}")
        self._found.add(at, _READERS[kind](self, read))

    def forget(self) -> None:
        """Leave out what the newest compaction stands for, once all has been read.

        The client's own words and instructions stay. Earlier summaries are in the newest one.
        """
        newest = max(self._summaries, default=0)
        kept = [
            (each, place)
            for each, place in zip(self._found.items, self._found.places, strict=True)
            if place >= newest
            or (isinstance(each, Said) and each.role != "assistant" and place not in self._summaries)
        ]
        self._found.items[:] = [each for each, _ in kept]
        self._found.places[:] = [place for _, place in kept]

    def message(self, item: Mapping[str, Any]) -> list[Item]:
        role = item.get("role", "user").lower()
        parts = read_content(item.get("content"))
        return [Said("system" if role == "developer" else role, parts)]

    def function_call(self, item: Mapping[str, Any]) -> list[Item]:
        return [self._call(item, self._name(item), self._arguments(item.get("arguments")))]

    def custom_call(self, item: Mapping[str, Any]) -> list[Item]:
        return [self._call(item, self._name(item), {"input": item.get("input", "")})]

    def shell_call(self, item: Mapping[str, Any]) -> list[Item]:
        action = item.get("action")
        if not isinstance(action, dict):
            raise InvalidRequest("a local_shell_call needs an action")
        known = {"working_directory": "workdir"}
        kept = ("command", "working_directory", "timeout_ms")
        arguments = {known.get(key, key): action[key] for key in kept if action.get(key) is not None}
        return [self._call(item, LOCAL_SHELL, arguments)]

    def search_call(self, item: Mapping[str, Any]) -> list[Item]:
        return [self._call(item, TOOL_SEARCH, self._arguments(item.get("arguments")))]

    def output(self, item: Mapping[str, Any]) -> list[Item]:
        # The answer of a local shell names its call by its own id.
        call_id = item.get("call_id") or item.get("id", "")
        return [Output(call_id, read_content(item.get("output"), what="output"))]

    def search_output(self, item: Mapping[str, Any]) -> list[Item]:
        """What was found can be called from here on, and the model reads which tools these are."""
        tools = item.get("tools", [])
        self._found.tools.append((f"input[{self._at}]: tools", tools))
        text = dumps({"tools": [line for tool in tools for line in _listed(tool)]}).decode()
        return [Output(item.get("call_id") or item.get("id", ""), (Text(text),))]

    def more_tools(self, item: Mapping[str, Any]) -> list[Item]:
        self._found.tools.append((f"input[{self._at}]: tools", item.get("tools", [])))
        return []

    def reasoning(self, item: Mapping[str, Any]) -> list[Item]:
        text = item.get("encrypted_content") or texts_of(item.get("content")) or texts_of(item.get("summary"))
        return [Thought(text)] if text else []

    def compaction(self, item: Mapping[str, Any]) -> list[Item]:
        """A summary, which stands for what was before it (`forget`)."""
        packed = item.get("encrypted_content", "")
        payload = read_payload(packed, self._limits)
        self._summaries.add(self._at)
        call_id = f"call_ollama_compaction_{hashlib.sha256(packed.encode()).hexdigest()[:12]}"
        return [
            Call(call_id, SUMMARY_TOOL, {"version": 1}, summarises=True),
            Output(call_id, (Text(payload.summary),), summarises=True),
            *(each for message in payload.retained for each in self._retained(message)),
        ]

    def trigger(self, _: Mapping[str, Any]) -> list[Item]:
        self._found.is_compacted_next = True
        return []

    def nothing(self, _: Mapping[str, Any]) -> list[Item]:
        return []

    def reference(self, _: Mapping[str, Any]) -> list[Item]:
        raise InvalidRequest(
            "item_reference is not supported, send the item itself: this server stores no responses"
        )

    def _retained(self, message: Mapping[str, Any]) -> list[Item]:
        """A message in the form of `/api/chat`."""
        role, parts = message["role"], read_content(message["content"])
        if role == "tool":
            return [Output(message["tool_call_id"], parts)]
        items: list[Item] = [Thought(message["thinking"])] if message["thinking"] else []
        if parts or not message["tool_calls"]:
            items.append(Said(role, parts))
        for call in message["tool_calls"]:
            items.append(Call(call["id"], call["name"], self._arguments(call["arguments"])))
        return items

    def _name(self, item: Mapping[str, Any]) -> str:
        return visible_name(item.get("name", ""), item.get("namespace", ""))

    def _call(self, item: Mapping[str, Any], name: str, arguments: Mapping[str, Json]) -> Call:
        return Call(item.get("call_id", ""), name, arguments)

    def _arguments(self, value: Json) -> Mapping[str, Json]:
        """Arguments come as JSON text, and from some clients as an object."""
        if isinstance(value, str):
            try:
                value = decode(value.encode(), self._limits) if value.strip() else {}
            except InvalidRequest as error:
                raise InvalidRequest(f"invalid function call arguments: {error}") from None
        refuse_nested("arguments", value, self._limits)
        found = {} if value is None else value
        if not isinstance(found, dict):
            raise InvalidRequest("invalid function call arguments: they must be an object")
        return found


def has_pictures(item: Item) -> bool:
    return isinstance(item, Said | Output) and any(isinstance(part, Image) for part in item.parts)


def _listed(tool: Json, namespace: str = "") -> list[dict[str, Json]]:
    """The names and descriptions of a tool that was found, or of those in a namespace."""
    if not isinstance(tool, dict):
        return []
    inner = tool.get("tools")
    if isinstance(inner, list) and not namespace:
        return [line for each in inner for line in _listed(each, str(tool.get("name", "")))]
    name = visible_name(str(tool.get("name", "")), namespace)
    return [{"name": name, "description": tool.get("description")}]


_READERS: Mapping[str, Callable[[_Reader, Mapping[str, Any]], list[Item]]] = {
    "message": _Reader.message,
    "function_call": _Reader.function_call,
    "function_call_output": _Reader.output,
    "custom_tool_call": _Reader.custom_call,
    "custom_tool_call_output": _Reader.output,
    "local_shell_call": _Reader.shell_call,
    "local_shell_call_output": _Reader.output,
    "tool_search_call": _Reader.search_call,
    "tool_search_output": _Reader.search_output,
    "additional_tools": _Reader.more_tools,
    "reasoning": _Reader.reasoning,
    "web_search_call": _Reader.nothing,
    "compaction": _Reader.compaction,
    "compaction_summary": _Reader.compaction,
    TRIGGER: _Reader.trigger,
    "item_reference": _Reader.reference,
}
