"""From the items of a conversation to the messages of a prompt."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from app.api.openai.responses.items import Call, Item, Output, Said, Thought
from app.core.request import Message, Part, PastToolCall, Text


@dataclass(slots=True)
class _Turn:
    """A message while more may come to it."""

    role: str
    parts: list[Part] = field(default_factory=list[Part])
    thinking: list[str] = field(default_factory=list[str])
    calls: list[PastToolCall] = field(default_factory=list[PastToolCall])
    tool_name: str = ""
    call_id: str = ""

    def message(self) -> Message:
        thinking = "".join(self.thinking)
        calls = tuple(self.calls)
        return Message(self.role, tuple(self.parts), thinking, calls, self.tool_name, self.call_id)


def messages_of(items: Iterable[Item], instructions: str = "") -> tuple[Message, ...]:
    """The messages that `items` are, after the instructions.

    System messages at the beginning are one, with a blank line between them: templates take one. Reasoning
    goes to the assistant's next message or call, a call to the assistant's message before it.
    """
    turns: list[_Turn] = [_Turn("system", [Text(instructions)])] if instructions else []
    names: dict[str, str] = {}
    for item in items:
        match item:
            case Said():
                _say(turns, item)
            case Thought():
                _thinking(turns).thinking.append(item.text)
            case Call():
                names[item.call_id] = item.name
                turn = _assistant(turns)
                turn.calls.append(PastToolCall(item.name, item.arguments, item.call_id))
            case Output():
                name = names.get(item.call_id, "")
                turns.append(_Turn("tool", list(item.parts), tool_name=name, call_id=item.call_id))
    return tuple(turn.message() for turn in turns)


def _say(turns: list[_Turn], item: Said) -> None:
    last = turns[-1] if turns else None
    if item.role == "system" and len(turns) == 1 and last is not None and last.role == "system":
        last.parts += [Text("\n\n"), *item.parts]
    elif item.role == "assistant" and last is not None and _only_thought(last):
        last.parts += item.parts
    else:
        turns.append(_Turn(item.role, list(item.parts)))


def _thinking(turns: list[_Turn]) -> _Turn:
    """The turn whose thinking goes on."""
    if not turns or not _only_thought(turns[-1]):
        turns.append(_Turn("assistant"))
    return turns[-1]


def _assistant(turns: list[_Turn]) -> _Turn:
    if not turns or turns[-1].role != "assistant":
        turns.append(_Turn("assistant"))
    return turns[-1]


def _only_thought(turn: _Turn) -> bool:
    return turn.role == "assistant" and not turn.parts and not turn.calls
