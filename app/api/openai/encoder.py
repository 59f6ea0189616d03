"""Events in, OpenAI's answers out: chunks of a stream or one document, for chat and for completions.

Nearly every chunk is plain text, which is spliced into ready bytes. An answer with several choices has its
events one choice after the other: `turn_to` says whose come next.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.api.dialect import Answer
from app.api.openai.counts import timings, usage
from app.api.openai.failure import error_document, failure
from app.api.wire import BARE_JSON, dumps
from app.core.events import Content, Done, Event, Started, Thinking, TokenLogprob, ToolCall, ToolUse
from app.engine.base import Prompt

EVENTS = "text/event-stream"
DONE = b"data: [DONE]\n\n"
FINGERPRINT = "fp_ollama"
_ID_END = 10**15
"""Ollama draws one of 999 numbers, which clients that keep answers by their id would mix up."""


@dataclass(frozen=True, slots=True)
class Form:
    """What all of an answer's documents share. `echoes` are the prompts that completions repeat."""

    model: str
    choices: int = 1
    per_prompt: int = 1
    top_logprobs: int = 0
    include_usage: bool = False
    service_tier: str = ""
    echoes: tuple[str, ...] = ()


@dataclass(slots=True)
class Choice:
    """What is known of one choice."""

    content: list[str] = field(default_factory=list[str])
    thinking: list[str] = field(default_factory=list[str])
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    logprobs: list[Any] = field(default_factory=list[Any])
    """As the route's words keep them (`Words.kept`)."""
    end: Done | None = None
    begun: bool = False

    def add(self, event: Event) -> None:
        match event:
            case Content():
                self.content.append(event.text)
            case Thinking():
                self.thinking.append(event.text)
            case ToolCall():
                self.calls.append(event)
            case Done():
                self.end = event
            case Started() | ToolUse():
                pass

    @property
    def reason(self) -> str | None:
        if self.end is None:
            return None
        return "tool_calls" if self.end.called_tools and self.end.reason == "stop" else self.end.reason


class Words(Protocol):
    """How a route words an answer. `index` is a choice's; `first` tells that nothing of it was sent."""

    head: Mapping[str, Any]
    """What a document begins with, in order: id, object and time."""
    tells_thinking: bool
    """Whether reasoning, and its log probabilities, are a part of the answer."""

    def text(self, index: int) -> tuple[bytes, bytes]:
        """What a chunk of plain text, no first one, has before the text and after."""
        ...

    def chunk(self, index: int, event: Event, *, first: bool) -> bytes:
        """The chunk of any event but the last; empty where the route does not tell it."""
        ...

    def finish(self, index: int, reason: str, *, first: bool) -> bytes: ...

    def counted(self, counts: Mapping[str, Any]) -> bytes:
        """The chunk behind all choices."""
        ...

    def kept(self, logprobs: Sequence[TokenLogprob]) -> Sequence[Any]:
        """What `document` needs of these, an item for each, written as far as it can be.

        They are a hundred times the text: written all at the end they would hold the event loop for seconds.
        """
        ...

    def document(self, index: int, choice: Choice) -> dict[str, Any]:
        """A choice of a whole answer, less its `finish_reason`."""
        ...


class OpenAIEncoder:
    """One answer in the `words` of its route."""

    media_type = EVENTS
    document_type = BARE_JSON

    def __init__(self, form: Form, words: Words) -> None:
        self._form = form
        self._words = words
        self._choices = [Choice() for _ in range(form.choices)]
        self._texts = [words.text(index) for index in range(form.choices)]
        self._ended = 0
        self.turn_to(0)

    def turn_to(self, index: int) -> None:
        """The events that come next are of this choice."""
        self._index, self._choice = index, self._choices[index]
        self._before, self._after = self._texts[index]

    def feed(self, event: Event) -> bytes:
        """The chunks that tell this event; empty where a later one or `whole` does."""
        if type(event) is Content and not event.logprobs:
            if not event.text:
                return b""
            if self._choice.begun:
                return b"".join((self._before, dumps(event.text), self._after))
        if isinstance(event, Started):
            return b""
        if isinstance(event, Done):
            return self._end(event)
        chunk = self._words.chunk(self._index, event, first=not self._choice.begun)
        self._choice.begun = self._choice.begun or bool(chunk)
        return chunk

    def collect(self, event: Event) -> None:
        """Keep this event for `whole`."""
        if self._words.tells_thinking or not isinstance(event, Thinking):
            self._choice.add(event)
            if isinstance(event, Content | Thinking) and event.logprobs:
                self._choice.logprobs += self._words.kept(event.logprobs)

    def whole(self) -> bytes:
        """Everything collected, as one document."""
        choices = [self._document(index, choice, choice.reason) for index, choice in enumerate(self._choices)]
        return self._whole(choices, self._counts())

    def loaded(self, *, stream: bool) -> bytes:
        """The answer to a request that only had its model loaded."""
        if stream:
            return self._words.finish(0, "load", first=True) + DONE
        return self._whole([self._document(0, Choice(), "load")], {"usage": usage(())})

    def rendered(self, prompt: Prompt) -> bytes:
        """The document of a `_debug_render_only` request."""
        images = {"image_count": prompt.image_count} if prompt.image_count else {}
        told = {"_debug_info": {"rendered_template": prompt.text, **images}}
        return self._whole([self._document(0, Choice(), None)], {"usage": usage(()), **told})

    def error(self, error: Exception) -> bytes:
        """The end of a stream that failed; without `[DONE]`, since it is not done."""
        return frame(error_document(error))

    def failure(self, error: Exception, *, stream: bool) -> Answer:
        """As Ollama's native routes answer, whose failures these are (docs/reference 13)."""
        answer = failure(error)
        return Answer(answer.status, {**answer.headers, "content-type": BARE_JSON}, answer.body + b"\n")

    def _end(self, event: Done) -> bytes:
        choice = self._choice
        choice.add(event)
        self._ended += 1
        frames = self._words.finish(self._index, choice.reason or "stop", first=not choice.begun)
        if self._ended < len(self._choices):
            return frames
        if self._form.include_usage:
            frames += self._words.counted(self._counts())
        return frames + DONE

    def _counts(self) -> dict[str, Any]:
        ends = [choice.end for choice in self._choices if choice.end is not None]
        return {"usage": usage(ends, self._form.per_prompt), **timings(ends)}

    def _document(self, index: int, choice: Choice, reason: str | None) -> dict[str, Any]:
        told = self._words.document(index, choice)
        scored = {"logprobs": told.pop("logprobs")} if "logprobs" in told else {}
        return {**told, "finish_reason": reason, **scored}

    def _whole(self, choices: list[dict[str, Any]], counts: Mapping[str, Any]) -> bytes:
        tier = {"service_tier": self._form.service_tier} if self._form.service_tier else {}
        named = {"model": self._form.model, "system_fingerprint": FINGERPRINT}
        return dumps({**self._words.head, **named, "choices": choices, **counts, **tier}) + b"\n"


def head_of(prefix: str, kind: str) -> dict[str, Any]:
    """What the documents of one answer begin with."""
    created = int(time.time())
    return {"id": f"{prefix}-{secrets.randbelow(_ID_END)}", "object": kind, "created": created}


def frame(document: Mapping[str, Any]) -> bytes:
    return b"data: " + dumps(document) + b"\n\n"
