"""What is left out when a prompt does not fit its window (ollama-api 4.5)."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

from app.core.errors import InvalidRequest
from app.core.request import Message

Count = Callable[[Sequence[Message]], Awaitable[int]]
"""Renders messages and says how many tokens that makes."""


async def fit(messages: Sequence[Message], window: int, count: Count) -> tuple[Message, ...]:
    """Drop the oldest messages, whole ones, until the rest fits `window` tokens.

    System messages are kept and placed first, and the last message always stays, even where it alone
    does not fit. The cut is found by halving, which relies on a prompt not growing when a message is
    taken out of it. Some templates refuse a history that starts in the middle of an exchange: then only
    cuts before a user's message are tried.

    Raises:
        InvalidRequest: when the template refuses the messages as they were given.
    """
    if len(messages) < 2 or await count(messages) <= window:
        return tuple(messages)
    cuts = range(1, len(messages))
    try:
        return await _first_fit(messages, window, count, cuts)
    except InvalidRequest:
        at_user = (cut for cut in cuts if messages[cut].role == "user")
        return await _first_fit(messages, window, count, at_user)


def cut_middle(token_ids: Sequence[int], window: int, num_keep: int) -> list[int]:
    """The first `num_keep` tokens and the newest, with about half of what remains of `window` left free.

    A negative `num_keep` keeps all that there is room for. A prompt that leaves room for a token of the
    answer is not cut.
    """
    if len(token_ids) < window:
        return list(token_ids)
    most = max(window - 1, 0)
    keep = most if num_keep < 0 else min(num_keep, most)
    kept = window - max((window - keep) // 2, 1)
    newest = len(token_ids) - (kept - keep)
    return [*token_ids[:keep], *token_ids[newest:]]


async def _first_fit(
    messages: Sequence[Message], window: int, count: Count, cuts: Iterable[int]
) -> tuple[Message, ...]:
    """The least cut that fits, else the last one."""
    left = [_from(messages, cut) for cut in cuts] or [_from(messages, len(messages) - 1)]
    low, high = 0, len(left) - 1
    while low < high:
        middle = (low + high) // 2
        if await count(left[middle]) <= window:
            high = middle
        else:
            low = middle + 1
    return left[low]


def _from(messages: Sequence[Message], cut: int) -> tuple[Message, ...]:
    return (*(each for each in messages[:cut] if each.role == "system"), *messages[cut:])
