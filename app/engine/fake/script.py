"""What a scripted engine answers: the texts of its deltas, and what a decoder makes of them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from app.core.errors import AppError
from app.core.events import Delta, Event, Thinking
from app.engine.base import Decoder, Prompt, Run

Gate: TypeAlias = asyncio.Event | Callable[[int], Awaitable[None]]
"""Holds deltas back: an event waited for before each, or a function of the delta's index."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one prompt: a delta per text.

    `events[i]` is what the decoder makes of delta i; the rest comes when it is flushed; None means that
    there is no decoder. `cached_tokens` of the prompt's count as known. `error` is raised in place of delta
    `error_after`; an `EngineDied` kills the engine.
    """

    deltas: Sequence[str]
    events: Sequence[Sequence[Event]] | None = None
    cached_tokens: int = 0
    error: AppError | None = None
    error_after: int = 0
    gate: Gate | None = None


Script: TypeAlias = Mapping[str, Reply] | Callable[[Prompt, Run], Reply]
"""Replies by the prompt's whole text or the last message's content; or a function, which must be pure:
it is asked once for the decoder and once for the deltas."""

HELLO = Reply(("Hello", " from", " the", " scripted", " engine."))


class ScriptedDecoder:
    """Gives the events of a `Reply`, delta by delta. The tokens of a delta with reasoning are reasoning."""

    def __init__(self, events: Sequence[Sequence[Event]], delta_count: int) -> None:
        self._events: Iterator[Sequence[Event]] = iter(events[:delta_count])
        self._rest = [event for group in events[delta_count:] for event in group]
        self.reasoning_tokens = 0

    def feed(self, delta: Delta) -> list[Event]:
        events = list(next(self._events, ()))
        if any(isinstance(event, Thinking) for event in events):
            self.reasoning_tokens += len(delta.token_ids)
        return events

    def flush(self) -> list[Event]:
        return self._rest


class ScriptedAnswer:
    """An answer of a `FakeEngine`."""

    def __init__(self, deltas: AsyncGenerator[Delta, None], decoder: Decoder | None) -> None:
        self._deltas = deltas
        self.decoder = decoder

    def next(self) -> Awaitable[Delta]:
        return anext(self._deltas)


def cut(texts: Sequence[str], stops: Sequence[str]) -> tuple[Sequence[str], str]:
    """The texts up to the first stop string, one at least, and that string."""
    whole = "".join(texts) if stops else ""
    found = [(at, stop) for stop in stops if stop and (at := whole.find(stop)) >= 0]
    if not found:
        return texts or ("",), ""
    end, stop = min(found)
    kept: list[str] = []
    for text in texts:
        kept.append(text[:end])
        end -= len(text)
        if end <= 0:
            break
    return kept, stop
