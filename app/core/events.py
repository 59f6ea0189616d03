"""What comes out of a generation. Slotted and not frozen: these are made once per token."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(slots=True)
class TokenLogprob:
    """A token, its natural-log probability and its true bytes (which may be half a character)."""

    token: str
    logprob: float
    token_bytes: bytes
    top: list["TokenLogprob"] = field(default_factory=list["TokenLogprob"])


@dataclass(slots=True)
class Timings:
    """Durations in nanoseconds, by the engine's own clock; that of the prompt leaves out what was cached."""

    prompt_eval_ns: int = 0
    eval_ns: int = 0


@dataclass(slots=True)
class Usage:
    """What one generation took, filled in by the engine when the generation ends, however it ends.

    Durations are nanoseconds by the engine's own clock, 0 where unknown; `first_token_at_ns` is by the wall
    clock.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    queue_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0
    first_token_at_ns: int = 0


@dataclass(slots=True)
class Delta:
    """One engine output: the new text and the tokens it came from (more than one when outputs merge).

    `prompt_tokens` (cached ones included) and `cached_tokens`, those that took no work (None where the
    engine does not say), are set on the first delta and on the last. `finish`, `output_tokens`, `timings`
    and `matched_stop`, the stop string that ended the reply, are set on the last only.
    """

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish: Literal["stop", "length"] | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    timings: Timings | None = None
    cached_tokens: int | None = None
    matched_stop: str = ""

    def joined(self, later: "Delta") -> "Delta":
        """This delta and the one after it as one."""
        logprobs = [*(self.logprobs or ()), *(later.logprobs or ())]
        return Delta(
            self.text + later.text,
            [*self.token_ids, *later.token_ids],
            logprobs or None,
            later.finish,
            later.prompt_tokens or self.prompt_tokens,
            later.output_tokens,
            later.timings,
            self.cached_tokens if later.cached_tokens is None else later.cached_tokens,
            later.matched_stop,
        )


@dataclass(slots=True)
class Started:
    """The first token is there. `cached_tokens` of the prompt's took no work; None where not known."""

    prompt_tokens: int
    cached_tokens: int | None = None


@dataclass(slots=True)
class Content:
    """Text of the answer."""

    text: str
    logprobs: list[TokenLogprob] | None = None


@dataclass(slots=True)
class Thinking:
    """Text of the reasoning."""

    text: str
    logprobs: list[TokenLogprob] | None = None


@dataclass(slots=True)
class ToolCall:
    """A whole call; `index` counts over the reply from 0."""

    index: int
    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One hit of a web search; `content` is the engine's excerpt, or of a page all that was read."""

    title: str
    url: str
    content: str


@dataclass(slots=True)
class ToolUse:
    """A built-in tool is used for the model: before its work, with no `outcome`, and after.

    `target` is the address or the query. `outcome` is `ok`, or one line that says what went wrong; `found` is
    what came of it.
    """

    id: str
    tool: str
    target: str
    outcome: str = ""
    found: tuple[SearchResult, ...] = ()


@dataclass(slots=True)
class Done:
    """The end of a reply. `context` is prompt and output token ids, None where it is not wanted.

    `reasoning_tokens` are those of the output that are reasoning; None of a model that has none.

    `cached_tokens` of the prompt's were not computed anew; None where the engine does not say. `matched_stop`
    is the stop string that ended it, `called_tools` whether it holds tool calls.
    """

    reason: FinishReason
    total_ns: int
    load_ns: int
    prompt_tokens: int
    output_tokens: int
    timings: Timings
    context: list[int] | None = None
    cached_tokens: int | None = None
    matched_stop: str = ""
    called_tools: bool = False
    reasoning_tokens: int | None = None


Event: TypeAlias = Started | Content | Thinking | ToolCall | ToolUse | Done
