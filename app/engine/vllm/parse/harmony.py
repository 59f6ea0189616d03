"""Reads gpt-oss's replies by their tokens: a channel's mark is a token that no text makes."""

import logging
from typing import Any

from openai_harmony import HarmonyError
from vllm.entrypoints.openai.parser.harmony_utils import (
    extract_function_from_recipient,
    get_encoding,
    get_streamable_parser_for_assistant,
    is_function_recipient,
)

from app.core.request import Sampling
from app.decode.calls.objects import arguments_of
from app.decode.reply import ParsedCall, ParsedReply
from app.engine.base import Prompt
from app.engine.stops import Stops
from app.engine.vllm.parse.reply import UNREAD

_log = logging.getLogger(__name__)
_CONSTRAIN = "<|constrain|>"


class HarmonyReply:
    """A `ReplyParser` of one reply, which begins behind `opened` of the assistant's turn.

    Always there, for the channels are no text for a client: where `thinking` is not wanted it is dropped. A
    call becomes one where the request has `tools`. What belongs to no channel is shown only where there is
    nothing else, as is a call that nobody can take.
    """

    skip_special_tokens = True
    hidden = frozenset[int]()
    closing: Prompt | None = None
    """Nothing ends the reasoning from outside: the constraint is of the whole reply."""

    def __init__(self, *, tools: bool, thinking: bool, opened: str, sampling: Sampling) -> None:
        self.thinking = thinking
        self.begun = bool(opened)
        self._tools = tools
        self._parser: Any = get_streamable_parser_for_assistant()
        self._thought, self._content = _Channel(sampling), _Channel(sampling)
        self._other = ""
        self._calls: list[tuple[str, list[str]]] = []
        self._in_message = False
        for token_id in get_encoding().encode(opened, allowed_special="all"):
            self._step(token_id)
        self._in_message = bool(self._parser.current_channel)

    def reasoning_ended(self) -> bool:
        """For the engine: the constraint is of the whole reply."""
        return True

    def reasoning_tokens(self, token_ids: list[int]) -> int:
        """Those of the reasoning's text, shown or not; marks of channels do not count."""
        return self._thought.count

    def feed(self, text: str, token_ids: list[int], *, last: bool) -> tuple[str, str]:
        thought = content = ""
        for token_id in token_ids:
            kind, piece = self._read(token_id)
            if kind is self._thought:
                thought += self._thought.push(piece)
            elif kind is self._content:
                content += self._content.push(piece)
        if last:
            thought += self._thought.end()
            content += self._content.end()
        return (thought if self.thinking else ""), content

    def parse(self, text: str, token_ids: list[int], *, cut: bool) -> ParsedReply:
        calls, unread = list[ParsedCall](), list[str]()
        for name, pieces in self._calls:
            body = "".join(pieces)
            arguments = arguments_of(body or ("" if cut else "{}"))
            if arguments is None:
                unread.append(body)
            else:
                calls.append(ParsedCall(name, arguments))
        if unread:
            _log.warning(UNREAD)
        content = "\n".join(part for part in (self._content.shown, *unread) if part)
        if not content and not calls and not self._thought.shown:
            content = self._other or ("" if _mark() in token_ids else text)
        return ParsedReply(self._thought.shown if self.thinking else "", content, calls)

    def _read(self, token_id: int) -> "tuple[_Channel | None, str]":
        """What the token adds, and to what."""
        if not self._step(token_id):
            return None, ""
        channel, recipient = self._parser.current_channel, _without_type(self._parser.current_recipient)
        begins = channel is not None and not self._in_message
        self._in_message = channel is not None
        piece = self._parser.last_content_delta or ""
        if recipient is not None and self._tools and is_function_recipient(recipient):
            if begins:
                self._calls.append((extract_function_from_recipient(recipient), []))
            if self._calls:
                self._calls[-1][1].append(piece)
            return None, ""
        kind = self._thought if channel == "analysis" else self._content
        if channel is None or recipient is not None or channel not in ("analysis", "commentary", "final"):
            self._other += piece
            return None, ""
        if begins:
            kind.begin()
        return kind, piece

    def _step(self, token_id: int) -> bool:
        try:
            self._parser.process(token_id)
        except HarmonyError:
            return False
        return True


class _Channel:
    """The messages of one kind, a line apart; `shown` is their text up to a stop string.

    Tokens are counted from the first message on: the engine looks for no stop string before `min_tokens`.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._stops = Stops(sampling.stop)
        self._least = sampling.min_tokens
        self.count = 0
        self._gap = ""
        self.shown = ""

    def begin(self) -> None:
        self._gap = "\n" if self.shown else ""

    def push(self, piece: str) -> str:
        self.count += 1
        if not piece:
            return ""
        piece, self._gap = self._gap + piece, ""
        ready = self._stops.push(piece) if self.count > self._least else piece
        self.shown += ready
        return ready

    def end(self) -> str:
        rest = self._stops.rest()
        self.shown += rest
        return rest


def _without_type(recipient: str | None) -> str | None:
    """Older versions of the library take the type of the content for a part of the recipient."""
    return (recipient.partition(_CONSTRAIN)[0].strip() or None) if recipient else None


def _mark() -> int:
    """The token that begins the name of a channel."""
    return get_encoding().encode("<|channel|>", allowed_special="all")[0]
