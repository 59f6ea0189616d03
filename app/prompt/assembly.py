"""Which messages a request comes to: the model's own, the client's and the order among them."""

from collections.abc import Sequence
from dataclasses import replace

from app.core.model import ModelName
from app.core.request import CompletionPrompt, Message

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
    system = [Message("system", model_system)] if model_system and not given else []
    return (*system, *model_messages, *request_messages)


def completion_messages(
    model_system: str, model_messages: Sequence[Message], asked: CompletionPrompt
) -> tuple[Message, ...]:
    """The messages of a completion (docs/reference 6.4).

    A `context`, be it empty, stands for the history: the model's messages are left out.
    """
    system = asked.system or model_system
    return (
        *([Message("system", system)] if system else ()),
        *(model_messages if asked.context is None else ()),
        Message("user", asked.prompt, images=asked.images),
    )


def forgets_thinking(name: ModelName, family: str) -> bool:
    """Whether earlier reasoning is cut from this model's history (docs/reference 7.4)."""
    return family == "qwen3" or name.model == "deepseek-r1"


def without_past_thinking(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages with the `<think>` block cut from assistant turns before the last user message."""
    last_user = max((at for at, each in enumerate(messages) if each.role == "user"), default=0)
    return tuple(
        replace(message, content=_after_thinking(message.content))
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
        # Split once: a search for each picture would be as many times the text.
        before, *after = message.content.split(_MARK, len(message.images))
        marks = [f"[img-{number}]" for number in range(count, count + len(message.images))]
        in_text = "".join(mark + text for mark, text in zip(marks, after, strict=False))
        count += len(message.images)
        marked.append(replace(message, content="".join(marks[len(after) :]) + before + in_text))
    return tuple(marked)


def _after_thinking(content: str) -> str:
    opened = content.lstrip()
    if not opened.startswith(_OPEN):
        return content
    return opened.partition(_CLOSE)[2].lstrip()
