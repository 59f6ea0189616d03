"""One request while it is served: who asks, what they may use, and what is reported once it is over.

The edge makes a `RequestContext`, the stages fill in what they know, and the edge reports it at the end.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, Protocol, TypeAlias, get_args

from app.core.events import Usage
from app.core.model import ModelName
from app.core.request import ChatPrompt, CompletionPrompt, Sampling

Scope: TypeAlias = Literal["inference", "tools", "models:read", "models:write", "metrics", "admin"]
"""What a key may be good for. `admin` is good for everything, `tools` for what the server itself fetches,
`metrics` for a scrape alone."""

SCOPES: frozenset[Scope] = frozenset(get_args(Scope))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may use; None is no limit.

    `max_context` and `max_predict` bound `num_ctx` and `num_predict` of a request, in tokens, and
    `max_tool_calls` what built-in tools do for it; tokens a minute count prompt and output.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    max_context: int | None = None
    max_predict: int | None = None
    max_tool_calls: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `key_id` is empty where the server has no keys, `name` where the key has none.

    `models` are the short names (`qwen3:latest`) and patterns (`llama*`) that may be used, in lower case;
    None allows every model. `priority` is vLLM's: a lower number is served first.
    """

    key_id: str = ""
    scopes: frozenset[Scope] = SCOPES
    models: frozenset[str] | None = None
    limits: Limits = field(default_factory=Limits)
    priority: int = 0
    name: str = ""

    def has(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def may_use(self, name: ModelName) -> bool:
        """Whether this model may be used, listed and shown; names that differ only in case are the same."""
        if self.models is None:
            return True
        short = str(name).lower()
        return short in self.models or any(fnmatchcase(short, one) for one in self.models if "*" in one)


ANYBODY = Caller()


Settle: TypeAlias = Callable[[int], Awaitable[None]]
"""The turn for which tokens were set aside has ended: how many it took."""


class Reserve(Protocol):
    async def __call__(self, prompt: int, room: int, *, exact: bool) -> tuple[int, Settle]:
        """Set tokens of the caller's limit aside, for a prompt and for an answer of at most `room`.

        The answer may take the tokens that are returned: all of `room` where it is `exact`. What is not
        settled when the request ends is settled then.

        Raises:
            RateLimited, Forbidden: where too little is left now, or the limit is too low for it.
        """
        ...


async def _unsettled(used: int) -> None:
    pass


async def _unlimited(prompt: int, room: int, *, exact: bool) -> tuple[int, Settle]:
    return room, _unsettled


Operation: TypeAlias = Literal["", "chat", "text_completion", "embeddings"]
"""What is asked of a model, in the words of OpenTelemetry; empty where nothing is."""

Outcome: TypeAlias = Literal["ok", "error", "cancelled"]


@dataclass(slots=True)
class Work:
    """What an engine did for a request, over all its turns; times are nanoseconds, 0 unknown."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    load_ns: int = 0
    queue_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0
    first_token_ns: int = 0
    """From the request's arrival to the first token of its first turn."""

    def add(self, usage: Usage, *, waited_ns: int, started_ns: int) -> None:
        """One turn, which waited in Caravan's own queue before; `started_ns` is the request's start."""
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.output_tokens += usage.output_tokens
        self.queue_ns += usage.queue_ns + waited_ns
        self.prefill_ns += usage.prefill_ns
        self.decode_ns += usage.decode_ns
        if usage.first_token_at_ns and not self.first_token_ns:
            self.first_token_ns = max(1, usage.first_token_at_ns - started_ns)


@dataclass(frozen=True, slots=True)
class ToolReport:
    """One call of a built-in tool, for who operates the server; `target`, an address or a query, is content.

    `failure` is the name of the error's class and `refused` says that an address was refused. Times are
    nanoseconds, `started_ns` by the wall clock.
    """

    tool: str
    host: str = ""
    target: str = ""
    status: int = 0
    received_bytes: int = 0
    started_ns: int = 0
    duration_ns: int = 0
    failure: str = ""
    refused: bool = False


@dataclass(slots=True)
class RequestContext:
    """One request, from its arrival to its end: who asks, what was done for it, how it ended."""

    # Known at the edge, before anything is done.
    caller: Caller = ANYBODY
    request_id: str = ""
    trace: Mapping[str, str] = field(default_factory=dict[str, str])
    """W3C headers to hand on."""
    trace_id: str = ""
    started_ns: int = field(default_factory=time.time_ns)
    """By the wall clock."""
    arrived_ns: int = field(default_factory=time.monotonic_ns)
    """By the monotonic clock."""
    method: str = ""
    path: str = ""
    route: str = ""
    """The path as it is registered, empty where there is none."""
    keeps_content: bool = False
    """Whether `prompt` and `answer` are to be kept."""
    reserve: Reserve = _unlimited

    # Filled in by the route and the pipeline.
    operation: Operation = ""
    model: str = ""
    """A name that is served, never one that was only asked for."""
    stream: bool = False
    sampling: Sampling | None = None
    work: Work = field(default_factory=Work)
    finish: str = ""
    """The finish reason of the last turn."""
    prompt: ChatPrompt | CompletionPrompt | None = None
    answer: str = ""
    tools: list[ToolReport] = field(default_factory=list[ToolReport])
    """What the server fetched for the model."""

    # How it ended, filled in at the edge.
    duration_ns: int = 0
    status: int = 0
    """0 where no answer began."""
    answered: bool = False
    """Whether the answer was sent to its end."""
    failure: str = ""
    """The name of the error's class."""
    error: str = ""
    """The error's text as the client read it."""
    rejection: str = ""
    """The reason where the request was turned away."""

    @property
    def outcome(self) -> Outcome:
        """How it ended: a client that left before the end has cancelled it."""
        if self.failure or self.status >= 400:
            return "error"
        return "ok" if self.answered else "cancelled"
