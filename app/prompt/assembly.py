"""Which messages a request comes to: the model's own, the client's and the order among them."""

from collections.abc import Sequence

from app.core.model import ModelName
from app.core.request import CompletionPrompt, Message, Text

_OPEN, _CLOSE = "<think>", "</think>"
_MARK = "[img]"


def chat_messages(
    model_system: str, model_messages: Sequence[Message], request_messages: Sequence[Message]
) -> tuple[Message, ...]:
    """The messages of a chat (docs/reference 7.4).

    Only a request that starts with a system message goes without the model's own, and the model's
    messages come first even then.
    """
    given = bool(request_messages) and request_messages[0].role == "system"
    system = [Message.of("system", model_system)] if model_system and not given else []
    return (*system, *model_messages, *request_messages)


def completion_messages(
    model_system: str, model_messages: Sequence[Message], asked: CompletionPrompt
) -> tuple[Message, ...]:
    """The messages of a completion (docs/reference 6.4).

    A `context`, be it empty, stands for the history: the model's messages are left out.
    """
    system = asked.system or model_system
    return (
        *([Message.of("system", system)] if system else ()),
        *(model_messages if asked.context is None else ()),
        Message.of("user", asked.prompt, asked.images),
    )


def forgets_thinking(name: ModelName, family: str) -> bool:
    """Whether earlier reasoning is cut from this model's history (docs/reference 7.4)."""
    return family == "qwen3" or name.model == "deepseek-r1"


def without_past_thinking(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages with the `<think>` block cut from assistant turns before the last user message."""
    last_user = max((at for at, each in enumerate(messages) if each.role == "user"), default=0)
    return tuple(
        message.with_text(_after_thinking(message.text))
        if message.role == "assistant" and at < last_user
        else message
        for at, message in enumerate(messages)
    )


def mark_images(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages with `[img-N]` where each picture belongs, counted over all of them (docs/reference 4.7).

    Only Go templates need it: other templates see the pictures themselves.
    """
    marked: list[Message] = []
    count = 0
    for message in messages:
        marks = [f"[img-{number}]" for number in range(count, count + len(message.images))]
        count += len(marks)
        # Split once: a search for each picture would be as many times the text.
        before, *after = message.text.split(_MARK, len(marks))
        if after:
            in_text = "".join(mark + text for mark, text in zip(marks, after, strict=False))
            marked.append(message.with_text("".join(marks[len(after) :]) + before + in_text))
        elif marks:
            left = iter(marks)
            pieces = (part.text if isinstance(part, Text) else next(left) for part in message.parts)
            marked.append(message.with_text("".join(pieces)))
        else:
            marked.append(message)
    return tuple(marked)


def _after_thinking(content: str) -> str:
    opened = content.lstrip()
    if not opened.startswith(_OPEN):
        return content
    return opened.partition(_CLOSE)[2].lstrip()
