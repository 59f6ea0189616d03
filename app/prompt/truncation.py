"""What is left out when a prompt does not fit its window (docs/reference 4.5)."""

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate

from app.core.errors import InvalidRequest
from app.core.request import Message
from app.core.weight import weight

Count = Callable[[Sequence[Message]], Awaitable[int]]
"""Renders messages and says how many tokens that makes."""

_TOKEN_CHARS = 8
"""Characters a token from which on a history hardly fits: text has 3 to 5."""


async def fit(messages: Sequence[Message], window: int, count: Count) -> tuple[Message, ...]:
    """Drop the oldest messages, whole ones, until the rest fits `window` tokens.

    System messages are kept and placed first, and the last message always stays, even where it alone
    does not fit. The cut is looked for from the end, so that hardly more than twice of what fits is rendered
    at once, however long the history is; that relies on a prompt not growing when a message is taken out
    of it. Some templates refuse a history that starts in the middle of an exchange: then only cuts before a
    user's message are tried. The last history counted that fitted is the one returned, if any did.

    Raises:
        InvalidRequest: when the template refuses the messages as they were given.
    """
    if len(messages) < 2:
        return tuple(messages)
    histories = _Histories(messages)
    try:
        return await histories.least(window, count)
    except InvalidRequest:
        if histories.keep_starts("user"):
            return await histories.least(window, count)
        if await count(messages) <= window:
            return tuple(messages)
        return histories.shortest


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


class _Histories:
    """What may be left of messages: one history for each cut, the longest first."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self._systems = [at for at, each in enumerate(messages) if each.role == "system"]
        # System messages stay whatever is cut: they weigh nothing, and their place makes no cut.
        self._before = [0, *accumulate(0 if each.role == "system" else weight(each) for each in messages)]
        self._cuts = [0, *(at for at in range(1, len(messages)) if messages[at - 1].role != "system")]

    def keep_starts(self, role: str) -> bool:
        """From now on only those that start with a message of that role, and the whole; false without any."""
        self._cuts = [0, *(at for at in range(1, len(self._messages)) if self._messages[at].role == role)]
        return len(self._cuts) > 1

    @property
    def shortest(self) -> tuple[Message, ...]:
        return self._at(len(self._messages) - 1)

    async def least(self, window: int, count: Count) -> tuple[Message, ...]:
        """The longest history that fits, else the shortest."""
        last = len(self._cuts) - 1

        async def fits(number: int) -> bool:
            return await count(self._history(number)) <= window

        tried = min(self._lightest(_TOKEN_CHARS * window), last)
        if await fits(tried):
            low, high = -1, tried
        elif tried == last or not await fits(last):
            return self._history(last)
        else:
            low, high = tried, last
        # Nothing longer than `high` is known to fit, nor to be too long, until `low` is.
        while low < 0 < high:
            tried = min(self._lightest(2 * self._weight(high)), high - 1)
            low, high = (low, tried) if await fits(tried) else (tried, high)
        while high - low > 1:
            half = (self._weight(low) + self._weight(high)) // 2
            tried = min(max(self._lightest(half), low + 1), high - 1)
            low, high = (low, tried) if await fits(tried) else (tried, high)
        return self._history(high)

    def _history(self, number: int) -> tuple[Message, ...]:
        return self._at(self._cuts[number])

    def _at(self, cut: int) -> tuple[Message, ...]:
        kept = self._systems[: bisect_left(self._systems, cut)]
        return (*(self._messages[at] for at in kept), *self._messages[cut:])

    def _weight(self, number: int) -> int:
        return self._before[-1] - self._before[self._cuts[number]]

    def _lightest(self, most: int) -> int:
        """The number of the longest history that weighs no more than `most`."""
        return bisect_left(range(len(self._cuts)), -most, key=lambda number: -self._weight(number))
