"""Pictures that a request names by their address: which there are, and the request with their files."""

from collections.abc import Mapping
from dataclasses import replace

from app.core.request import ChatPrompt, Generation, Image, RemoteImage


def remote_images(asked: Generation) -> list[RemoteImage]:
    """Those of a chat, in its order; a completion names none."""
    if not isinstance(asked.prompt, ChatPrompt):
        return []
    parts = (part for message in asked.prompt.messages for part in message.parts)
    return [part for part in parts if isinstance(part, RemoteImage)]


def with_images(asked: Generation, found: Mapping[str, Image]) -> Generation:
    """The same with `found`, by address, in the places of those pictures."""
    assert isinstance(asked.prompt, ChatPrompt), "only chats name pictures by address"
    messages = tuple(
        replace(
            message,
            parts=tuple(found[part.url] if isinstance(part, RemoteImage) else part for part in message.parts),
        )
        for message in asked.prompt.messages
    )
    return replace(asked, prompt=replace(asked.prompt, messages=messages))
