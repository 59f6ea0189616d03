"""Conversations that a model's template may refuse: clients of this API send what few templates know.

Codex tells its rules and its surroundings in system messages among the others, and in several user messages
in a row. Many templates take a system message as the first one only, or users and assistants in turn only.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from app.api.stream import Events
from app.core.errors import InvalidRequest
from app.core.events import Event
from app.core.request import ChatPrompt, Generation, Message, Text


def plainer(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same with system messages after the first as the user's, and those of the user in a row as one.

    A blank line stands between what were two messages.
    """
    found: list[Message] = []
    for at, message in enumerate(messages):
        if message.role == "system" and at:
            message = replace(message, role="user")
        last = found[-1] if found else None
        if last is not None and last.role == message.role == "user":
            found[-1] = replace(last, parts=(*last.parts, Text("\n\n"), *message.parts))
        else:
            found.append(message)
    return tuple(found)


def answered(run: Callable[[Generation], Events], asked: Generation) -> Events:
    """The events of an answer; what is refused as it was sent is tried in a plainer form.

    Raises:
        AppError: as `run` does.
    """
    prompt = asked.prompt
    if not isinstance(prompt, ChatPrompt) or (messages := plainer(prompt.messages)) == prompt.messages:
        return run(asked)
    return _either(run, asked, replace(asked, prompt=replace(prompt, messages=messages)))


async def _either(
    run: Callable[[Generation], Events], asked: Generation, instead: Generation
) -> AsyncGenerator[Sequence[Event], None]:
    begun = False
    try:
        async with aclosing(run(asked)) as events:
            async for group in events:
                begun = True
                yield group
        return
    except InvalidRequest:
        if begun:
            raise
    async with aclosing(run(instead)) as events:
        async for group in events:
            yield group
