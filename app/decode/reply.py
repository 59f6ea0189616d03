"""Reads a reply that may hold reasoning and tool calls, whatever pieces it arrives in.

The stream shows what a parser is sure of at once; at the end the whole text is parsed again and the two are
brought together. So a parser that streams badly delays text, but it never loses or doubles any, and tool
calls come whole, from the full text.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from app.core.events import Content, Delta, Event, Thinking, TokenLogprob, ToolCall


@dataclass(slots=True)
class ParsedCall:
    """A tool call as the parser found it; `id` is "" where the format has none."""

    name: str
    arguments: dict[str, Any]
    id: str = ""


@dataclass(slots=True)
class ParsedReply:
    """A whole reply, taken apart."""

    thinking: str = ""
    content: str = ""
    calls: list[ParsedCall] = field(default_factory=list[ParsedCall])


class ReplyParser(Protocol):
    """The parser of one reply's format. One per reply."""

    def feed(self, text: str, token_ids: list[int], *, last: bool) -> tuple[str, str]:
        """New thinking and new content that are certain after this piece."""
        ...

    def parse(self, text: str, token_ids: list[int], *, cut: bool) -> ParsedReply:
        """The whole reply. What cannot be read as a call, or was `cut` off within one, stays content."""
        ...

    def reasoning_tokens(self, token_ids: list[int]) -> int:
        """How many tokens of the whole reply are reasoning, which was fed before."""
        ...


class _Trimmed:
    """Text without the white space around it: leading is dropped, trailing held until more follows."""

    __slots__ = ("_held", "_lead", "sent")

    def __init__(self, *, lead: bool) -> None:
        self.sent = ""
        self._held = ""
        self._lead = lead

    def push(self, text: str) -> str:
        text = self._held + text
        if self._lead and not self.sent:
            text = text.lstrip()
        ready = text.rstrip()
        self._held = text[len(ready) :]
        self.sent += ready
        return ready

    def rest_of(self, whole: str, *, keep_trailing: bool) -> str:
        """What of `whole` was not sent yet."""
        if self._lead:
            whole = whole.lstrip()
        if not keep_trailing:
            whole = whole.rstrip()
        if whole.startswith(self.sent):
            return whole[len(self.sent) :]
        return whole[_common_prefix(self.sent, whole) :]


class ReplyDecoder:
    """A `Decoder` over a `ReplyParser`.

    `trims_content` drops the white space between reasoning and answer; it is off where no reasoning is
    expected, so that such text passes unchanged.
    """

    def __init__(self, parser: ReplyParser, *, trims_content: bool, make_id: "IdMaker") -> None:
        self.parser = parser
        self._make_id = make_id
        self._thinking = _Trimmed(lead=True)
        self._content = _Trimmed(lead=trims_content)
        self._pieces: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._cut = False

    def feed(self, delta: Delta) -> list[Event]:
        self._pieces.append(delta.text)
        self._token_ids += delta.token_ids
        if delta.logprobs:
            self._logprobs += delta.logprobs
        self._cut = delta.finish == "length"
        thinking, content = self.parser.feed(delta.text, delta.token_ids, last=delta.finish is not None)
        return self._events(
            self._thinking.push(thinking) if thinking else "",
            self._content.push(content) if content else "",
        )

    def flush(self) -> list[Event]:
        reply = self.parser.parse("".join(self._pieces), self._token_ids, cut=self._cut)
        events = self._events(
            self._thinking.rest_of(reply.thinking, keep_trailing=False),
            self._content.rest_of(reply.content, keep_trailing=not reply.calls),
        )
        if self._logprobs:
            events.append(Content("", self._take_logprobs()))
        events += (
            ToolCall(index, call.id or self._make_id(), call.name, call.arguments)
            for index, call in enumerate(reply.calls)
        )
        return events

    @property
    def reasoning_tokens(self) -> int:
        return self.parser.reasoning_tokens(self._token_ids)

    def _events(self, thinking: str, content: str) -> list[Event]:
        events: list[Event] = []
        if thinking:
            events.append(Thinking(thinking, self._take_logprobs()))
        if content:
            events.append(Content(content, self._take_logprobs()))
        return events

    def _take_logprobs(self) -> list[TokenLogprob] | None:
        taken, self._logprobs = self._logprobs, []
        return taken or None


class IdMaker(Protocol):
    """Makes the id of a call whose format carries none."""

    def __call__(self) -> str: ...


def _common_prefix(one: str, other: str) -> int:
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)
