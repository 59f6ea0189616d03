"""Content blocks as messages that a template can show a model (docs/reference 15.3)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from app.api.anthropic.schema import Block, Turn, read_blocks
from app.api.anthropic.system import BETWEEN, joined, reminder, system_text
from app.api.wire import dumps
from app.core.errors import InvalidRequest
from app.core.request import Image, Json, Message, Part, PastToolCall, RemoteImage, Text
from app.golang.quote import quoted
from app.golang.types import decode_base64

_SEARCH_ERROR = "web_search_tool_result_error"
_REFUSED: Mapping[str, str] = {
    "container_upload": "this server has no containers; send the file's text",
    "compaction": "its text is encrypted; send the messages that it stands for",
    "tool_addition": "tools do not change within a conversation; send all of them as `tools`",
    "tool_removal": "tools do not change within a conversation; send those that are left as `tools`",
}
"""Blocks that mean something which a model here could not be shown."""


def to_messages(system: Json, turns: Sequence[Turn]) -> tuple[Message, ...]:
    """The conversation: at most one system message, at its beginning.

    Raises:
        InvalidRequest: for a block that cannot be shown.
    """
    if isinstance(system, list):
        _refuse_unshown(system)
    made = _Conversation(system_text(system))
    last_user = max((at for at, turn in enumerate(turns) if turn.role == "user"), default=-1)
    for at, turn in enumerate(turns):
        if turn.role != "system":
            made.add(turn)
        elif not (_is_cleared(turn) and at < last_user):
            _refuse_unshown(turn.content)
            made.remind(joined(turn.content))
    return made.messages


def _is_cleared(turn: Turn) -> bool:
    """Whether a system message is shown no more once the user has spoken after it."""
    if turn.clear_at not in ("", "never", "next_user_message"):
        raise InvalidRequest(f'clear_at: must be "next_user_message" or "never", not {quoted(turn.clear_at)}')
    return turn.clear_at == "next_user_message"


class _Conversation:
    """Messages so far. `names` are those of the tools called, by the ids of the calls.

    What is said in pieces is put together once, at the end: a piece of it may come thousands of times.
    """

    def __init__(self, system: str) -> None:
        self._system = [system] if system else []
        self._messages: list[tuple[Message, list[Part]]] = []
        self._names: dict[str, str] = {}
        self._is_open = False
        """Whether the last message is nothing but reminders."""

    @property
    def messages(self) -> tuple[Message, ...]:
        first = (Message.of("system", BETWEEN.join(self._system)),) if self._system else ()
        return (*first, *(replace(message, parts=_whole(parts)) for message, parts in self._messages))

    def remind(self, text: str) -> None:
        """Add a system message. Before anybody has spoken it is part of the system prompt.

        Later it joins the user's or tool's message before it: put in front, it would change the beginning of
        every prompt after it; as a message of its own it would be what many templates refuse.
        """
        if not text:
            return
        if not self._messages:
            self._system.append(text)
            return
        last, parts = self._messages[-1]
        if last.role in ("user", "tool"):
            _put_behind(parts, (Text(reminder(text)),))
        else:
            self._append(Message.of("user", reminder(text)))
            self._is_open = True

    def add(self, turn: Turn) -> None:
        for message in _of_turn(turn):
            self._names.update((call.id, call.name) for call in message.tool_calls)
            if message.role == "tool":
                message = replace(message, tool_name=self._names.get(message.tool_call_id, ""))
            if message.role == "user" and self._is_open:
                _put_behind(self._messages[-1][1], message.parts)
            else:
                self._append(message)
            self._is_open = False

    def _append(self, message: Message) -> None:
        self._messages.append((message, list(message.parts)))


def _put_behind(parts: list[Part], more: Iterable[Part]) -> None:
    if parts:
        parts.append(Text(BETWEEN))
    parts += more


def _whole(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Texts that stand side by side as one: templates that see pieces put what they like between them."""
    found: list[Part] = []
    for kind, some in groupby(parts, type):
        if kind is Text:
            found.append(Text("".join(part.text for part in some if isinstance(part, Text))))
        else:
            found += some
    return tuple(found)


@dataclass(slots=True)
class _Own:
    """What a turn says itself, as opposed to the results of tools that it brings."""

    role: str
    parts: list[Part] = field(default_factory=list[Part])
    thinking: list[str] = field(default_factory=list[str])
    calls: list[PastToolCall] = field(default_factory=list[PastToolCall])

    def messages(self) -> Iterator[Message]:
        """The message that it makes, unless it is empty."""
        if self.parts or self.thinking or self.calls:
            thinking = BETWEEN.join(self.thinking)
            yield Message(self.role, tuple(self.parts), thinking=thinking, tool_calls=tuple(self.calls))


def _of_turn(turn: Turn) -> Iterator[Message]:
    """A user's results come before what else the user says; other turns are in the order of their blocks."""
    results: list[Message] = []
    own = _Own(turn.role)
    for block in turn.content:
        if (result := _result(block)) is None:
            _take(block, own)
        elif turn.role == "user":
            results.append(result)
        else:
            yield from own.messages()
            own = _Own(turn.role)
            yield result
    yield from results
    yield from own.messages()


def _take(block: Block, own: _Own) -> None:
    match block.type:
        case "tool_use":
            own.calls.append(_call(block))
        case "server_tool_use" | "mcp_tool_use":
            own.calls.append(PastToolCall(block.name, block.input, block.id))
        case "thinking":
            own.thinking += filter(None, (block.thinking,))
        case _:
            own.parts += _shown(block)


def _call(block: Block) -> PastToolCall:
    for name, value in (("id", block.id), ("name", block.name)):
        if not value:
            raise InvalidRequest(f"tool_use block missing required '{name}' field")
    return PastToolCall(block.name, block.input, block.id)


def _result(block: Block) -> Message | None:
    """The message of a block that holds a tool's result."""
    match block.type:
        case "tool_result" | "mcp_tool_result":
            parts = [part for inner in read_blocks(block.content) for part in _shown(inner)]
            if block.is_error:
                parts.insert(0, Text("Error: "))
        case "web_search_tool_result":
            parts = [Text(_search_text(block.content))]
        case kind if kind.endswith("_tool_result"):
            parts = [Text(dumps(block.content).decode())]
        case _:
            return None
    return Message("tool", tuple(parts), tool_call_id=block.tool_use_id)


def _shown(block: Block) -> list[Part]:
    """What a model sees of a block that is no call; of a type that is not known, nothing."""
    match block.type:
        case "text":
            return [Text(block.text)] if block.text else []
        case "image":
            return [_picture(block)]
        case "document":
            return _document(block)
        case "search_result":
            heading = "\n".join(filter(None, (block.title, _word(block.source))))
            return _titled(heading, read_blocks(block.content))
        case "compaction" if isinstance(block.content, str) and not block.tool_changes:
            return [Text(block.content)]
        case _:
            _refuse_unshown((block,))
            return []


def _refuse_unshown(blocks: Iterable[Block]) -> None:
    """Raises: InvalidRequest: for a block that means something which a model here could not be shown."""
    for block in blocks:
        if why := _REFUSED.get("tool_addition" if block.tool_changes else block.type):
            raise InvalidRequest(f"{block.type}: {why}")


def _picture(block: Block) -> Image | RemoteImage:
    source, wanted = block.source, block.transformations
    if isinstance(wanted, dict) and wanted.get("oversized_image") == "error":
        raise InvalidRequest("image: transformations.oversized_image: every picture is made to fit here")
    if not isinstance(source, dict):
        raise InvalidRequest("invalid image source")
    kind = _word(source.get("type"))
    only = f"invalid image source type: {kind}. Only base64 images are supported."
    if kind == "url" and (url := _word(source.get("url"))):
        return RemoteImage(url, only)
    if kind != "base64":
        raise InvalidRequest(only)
    try:
        return Image(decode_base64(_word(source.get("data"))))
    except InvalidRequest as error:
        raise InvalidRequest(f"invalid base64 image data: {error}") from None


def _document(block: Block) -> list[Part]:
    source = block.source if isinstance(block.source, dict) else {}
    heading = "\n".join(filter(None, (block.title, block.context)))
    match source.get("type"):
        case "text":
            return _titled(heading, [Block(type="text", text=_word(source.get("data")))])
        case "content":
            return _titled(heading, read_blocks(source.get("content")))
        case other:
            kind = _word(source.get("media_type")) or _word(other)
            raise InvalidRequest(
                f"invalid document source: {kind}. Only the source types text and content are supported."
            )


def _titled(heading: str, blocks: Iterable[Block]) -> list[Part]:
    above: list[Part] = [Text(heading + BETWEEN)] if heading else []
    return [*above, *(part for block in blocks for part in _shown(block))]


def _search_text(content: Json) -> str:
    """The result of a search that a server ran, as far as it can be read: its pages come encrypted."""
    if isinstance(content, str):
        return content
    items = content if isinstance(content, list) else [content]
    return "".join(_search_line(item) for item in items if isinstance(item, dict))


def _search_line(item: dict[str, Json]) -> str:
    match item.get("type"):
        case "web_search_result":
            return f"- {_word(item.get('title'))}: {_word(item.get('url'))}\n"
        case kind if kind == _SEARCH_ERROR:
            return ": ".join(filter(None, (_SEARCH_ERROR, _word(item.get("error_code")))))
        case _:
            return ""


def _word(value: Json) -> str:
    return value if isinstance(value, str) else ""
