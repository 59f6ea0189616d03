"""Reads a reply that had to call tools: JSON of the calls, whatever the model's own format."""

from collections.abc import Mapping
from typing import Any, Protocol

from app.core.events import Content, Delta, Event, ToolCall
from app.decode.calls.strict import decode_whole
from app.decode.ids import call_id
from app.decode.reply import IdMaker


class Reader(Protocol):
    """What reads a reply's deltas, as any decoder does."""

    def feed(self, delta: Delta) -> list[Event]: ...

    def flush(self) -> list[Event]: ...

    @property
    def reasoning_tokens(self) -> int: ...


class ForcedCalls:
    """A `Decoder`: what `inner` takes for the answer is the calls; what it takes for reasoning stays that.

    `inner` is None where all of the reply is the answer. A text that is no JSON of calls, as one that the
    token limit cut off, stays content.
    """

    def __init__(self, inner: Reader | None, *, make_id: IdMaker = call_id) -> None:
        self._inner = inner
        self._make_id = make_id
        self._pieces: list[str] = []

    def feed(self, delta: Delta) -> list[Event]:
        if self._inner is not None:
            return self._kept(self._inner.feed(delta))
        self._pieces.append(delta.text)
        return [Content("", delta.logprobs)] if delta.logprobs else []

    def flush(self) -> list[Event]:
        events = self._kept(self._inner.flush()) if self._inner is not None else []
        text = "".join(self._pieces)
        try:
            calls = [_call(item) for item in decode_whole(text)]
        except (ValueError, TypeError, KeyError):
            return [*events, Content(text)] if text else events
        events += (
            ToolCall(index, self._make_id(), name, arguments) for index, (name, arguments) in enumerate(calls)
        )
        return events

    @property
    def reasoning_tokens(self) -> int:
        return 0 if self._inner is None else self._inner.reasoning_tokens

    def _kept(self, events: list[Event]) -> list[Event]:
        passed: list[Event] = []
        for event in events:
            if not isinstance(event, Content):
                passed.append(event)
                continue
            self._pieces.append(event.text)
            if event.logprobs:
                passed.append(Content("", event.logprobs))
        return passed


class OneCall:
    """A `Decoder`: what `inner` reads, less all calls but the first."""

    def __init__(self, inner: Reader) -> None:
        self._inner = inner

    def feed(self, delta: Delta) -> list[Event]:
        return _with_first(self._inner.feed(delta))

    def flush(self) -> list[Event]:
        return _with_first(self._inner.flush())

    @property
    def reasoning_tokens(self) -> int:
        return self._inner.reasoning_tokens


def _with_first(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, ToolCall) or event.index == 0]


def _call(item: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(item, Mapping):
        raise TypeError
    name, arguments = item["name"], item["arguments"]
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise TypeError
    return name, arguments
