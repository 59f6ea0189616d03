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
from app.core.request import ChatPrompt, Generation, Message, Part, Text


def plainer(asked: Generation) -> Generation | None:
    """The same with system messages after the first as the user's, and those of the user in a row as one.

    A blank line stands between what were two messages. None where that changes nothing.
    """
    prompt = asked.prompt
    if not isinstance(prompt, ChatPrompt):
        return None
    turns: list[tuple[Message, list[Part]]] = []
    for at, message in enumerate(prompt.messages):
        plain = replace(message, role="user") if message.role == "system" and at else message
        if turns and turns[-1][0].role == plain.role == "user":
            turns[-1][1].extend((Text("\n\n"), *plain.parts))
        else:
            turns.append((plain, [*plain.parts]))
    messages = tuple(replace(message, parts=tuple(parts)) for message, parts in turns)
    return None if messages == prompt.messages else replace(asked, prompt=replace(prompt, messages=messages))


def answered(run: Callable[[Generation], Events], asked: Generation, instead: Generation | None) -> Events:
    """The events of an answer to `asked`; where that is refused, to `instead`.

    Raises:
        AppError: as `run` does.
    """
    return run(asked) if instead is None else _either(run, asked, instead)


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
