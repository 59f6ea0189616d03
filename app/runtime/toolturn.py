"""What one turn of a model wrote, while built-in tools may follow it, and the sums over turns."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from app.core.events import Content, Done, Event, Started, Thinking, Timings, ToolCall


@dataclass(slots=True)
class ToolTurn:
    """One turn. Unless it is `live`, its text is held back until it is known to be the answer's.

    `first` is the request's first turn, whose beginning is told.
    """

    live: bool
    first: bool
    held: list[Event] = field(default_factory=list[Event])
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    reasoning: list[str] = field(default_factory=list[str])
    done: Done | None = None

    def shown(self, events: Sequence[Event]) -> Sequence[Event]:
        """Those events that are sent at once; the others are kept."""
        return [event for event in events if self._is_shown(event)]

    def _is_shown(self, event: Event) -> bool:
        match event:
            case Started():
                return self.first
            case Thinking():
                self.reasoning.append(event.text)
                return True
            case Content():
                if not self.live:
                    self.held.append(event)
                return self.live
            case ToolCall():
                self.calls.append(event)
                return False
            case _:
                return True

    @property
    def text(self) -> str:
        """What was held back."""
        return "".join(event.text for event in self.held if isinstance(event, Content))

    @property
    def thinking(self) -> str:
        return "".join(self.reasoning)

    def split(self, theirs: Collection[str]) -> tuple[list[ToolCall], list[ToolCall]]:
        """The calls that are for the server, and those of the client's own tools, counted anew.

        `theirs` names the latter. What names no tool at all is for the server: no client knows of it.
        """
        found = [call for call in self.calls if call.name in theirs]
        return [call for call in self.calls if call.name not in theirs], [
            ToolCall(index, call.id, call.name, call.arguments) for index, call in enumerate(found)
        ]


@dataclass(slots=True)
class Sums:
    """Counts and durations over all turns of a request."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int | None = 0
    reasoning_tokens: int = 0
    prompt_eval_ns: int = 0
    eval_ns: int = 0

    def add(self, done: Done) -> None:
        self.prompt_tokens += done.prompt_tokens
        self.output_tokens += done.output_tokens
        self.reasoning_tokens += done.reasoning_tokens or 0
        if self.cached_tokens is not None and done.cached_tokens is not None:
            self.cached_tokens += done.cached_tokens
        else:
            self.cached_tokens = None
        self.prompt_eval_ns += done.timings.prompt_eval_ns
        self.eval_ns += done.timings.eval_ns

    def put_into(self, done: Done) -> Done:
        """The end of the last turn as that of the whole request."""
        done.prompt_tokens, done.output_tokens = self.prompt_tokens, self.output_tokens
        done.cached_tokens = self.cached_tokens
        if done.reasoning_tokens is not None:
            done.reasoning_tokens = self.reasoning_tokens
        done.timings = Timings(self.prompt_eval_ns, self.eval_ns)
        return done
