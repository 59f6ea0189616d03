"""What is kept of one turn's reply while it is made, and what it has come to at its end."""

import json
from collections.abc import Sequence

from app.constrain.texts import is_whole
from app.core.errors import ConstraintFailed
from app.core.events import Content, Delta, Event, Started, ToolCall
from app.core.request import Constraint
from app.engine.base import Decoder
from app.runtime.queue import Place

_NOTHING: Sequence[Event] = ()


class Reply:
    """`read` runs once per engine output.

    `keeps_text` keeps all that the model wrote, reasoning tags included; under a `constraint` the answer is
    kept, to be checked at the end.
    """

    __slots__ = ("_answer", "_constraint", "_pieces", "_turn", "called_tools", "decoder", "last")

    def __init__(self, turn: Place, *, keeps_text: bool, constraint: Constraint | None) -> None:
        self._turn = turn
        self._constraint = constraint
        self.decoder: Decoder | None = None
        self._answer: list[str] | None = None if constraint is None else []
        self._pieces: list[str] | None = [] if keeps_text else None
        self.last = Delta("", [])
        self.called_tools = False

    def read(self, delta: Delta) -> Sequence[Event]:
        """The events of a delta; none where it only completes a character or is held back."""
        if self._pieces is not None:
            self._pieces.append(delta.text)
        if delta.finish is not None:
            self.last = delta
        events = _NOTHING
        if self.decoder is not None:
            events = self.decoder.feed(delta)
            self._keep(events)
        elif delta.text or delta.logprobs:
            events = (Content(delta.text, delta.logprobs),)
            if self._answer is not None:
                self._answer.append(delta.text)
        if self._turn.silent:
            self._turn.speaks()
            started = Started(delta.prompt_tokens or self._turn.tokens, delta.cached_tokens)
            return (started, *events)
        return events

    def remaining(self) -> Sequence[Event]:
        """What the decoder held back, and its tool calls."""
        events = self.decoder.flush() if self.decoder is not None else _NOTHING
        self.called_tools = self.called_tools or any(isinstance(event, ToolCall) for event in events)
        self._keep(events)
        return events

    def check_whole(self) -> None:
        """A matcher that fails lets the model write nothing but its end, which looks like an answer's own.

        Raises:
            ConstraintFailed: for a constrained answer that ended by itself and is not what it had to be.
        """
        own_end = self.last.finish == "stop" and not self.last.matched_stop and not self.called_tools
        if self._answer is None or self._constraint is None or not own_end:
            return
        text = "".join(self._answer)
        if not text and self.decoder is not None:
            raise ConstraintFailed("the model ended its answer within its reasoning")
        if not self._constraint.is_json:
            if not is_whole(self._constraint, text):
                raise ConstraintFailed
            return
        try:
            json.loads(text)
        except ValueError as error:
            raise ConstraintFailed from error
        except RecursionError:
            pass

    @property
    def reasoning_tokens(self) -> int:
        return 0 if self.decoder is None else self.decoder.reasoning_tokens

    @property
    def text(self) -> str:
        """All the model wrote, where that is kept."""
        return "".join(self._pieces or ())

    def _keep(self, events: Sequence[Event]) -> None:
        if self._answer is None:
            return
        for event in events:
            if isinstance(event, Content):
                self._answer.append(event.text)
            elif isinstance(event, ToolCall):
                self.called_tools = True
