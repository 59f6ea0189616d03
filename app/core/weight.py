"""How much text a message is, without a look at any token."""

from app.core.request import Json, Message

_MESSAGE_CHARS = 16
"""What a message weighs beside its text: a template writes its role and its end."""


def weight(message: Message) -> int:
    """About how many characters of a prompt a message comes to."""
    calls = sum(len(call.name) + _size(call.arguments) for call in message.tool_calls)
    return _MESSAGE_CHARS + len(message.text) + len(message.thinking) + calls


def _size(value: Json) -> int:
    """About the characters of a JSON value, without writing it."""
    size, left = 0, [value]
    while left:
        match left.pop():
            case str() as text:
                size += len(text)
            case dict() as members:
                left += members.keys()
                left += members.values()
            case list() as items:
                left += items
            case _:
                size += 4
    return size
