"""One request while it is served: who asks, what they may use, and what will be told of it once it is over.

The edge makes a `RequestContext`, the stages fill in what they know, and the edge reports it at the end.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, Protocol, TypeAlias, get_args

from app.core.model import ModelName
from app.core.request import ChatPrompt, CompletionPrompt, Sampling

Scope: TypeAlias = Literal["inference", "models:read", "models:write", "metrics", "admin"]
"""What a key may be good for; `admin` is good for everything, and `metrics` for a scrape alone."""

SCOPES: frozenset[Scope] = frozenset(get_args(Scope))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may use; None is no limit.

    `max_context` and `max_predict` bound `num_ctx` and `num_predict` of a request, in tokens; tokens a minute
    count prompt and output.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    max_context: int | None = None
    max_predict: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `key_id` is empty where the server has no keys.

    `models` are the short names (`qwen3:latest`) and patterns (`llama*`) that may be used, in lower case;
    None allows every model. `priority` is vLLM's: a lower number is served first.
    """

    key_id: str = ""
    scopes: frozenset[Scope] = SCOPES
    models: frozenset[str] | None = None
    limits: Limits = field(default_factory=Limits)
    priority: int = 0

    def has(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def may_use(self, name: ModelName) -> bool:
        """Whether this model may be used, listed and shown; names that differ only in case are the same."""
        if self.models is None:
            return True
        short = str(name).lower()
        return short in self.models or any(fnmatchcase(short, one) for one in self.models if "*" in one)


ANYBODY = Caller()


class Reserve(Protocol):
    async def __call__(self, prompt: int, room: int, *, exact: bool) -> int:
        """Set tokens of the caller's limit aside, for a prompt and for an answer of at most `room`.

        The answer may take the tokens that are returned: all of `room` where it is `exact`.

        Raises:
            RateLimited, Forbidden: where too little is left now, or the limit is too low for it.
        """
        ...


async def _unlimited(prompt: int, room: int, *, exact: bool) -> int:
    return room


Operation: TypeAlias = Literal["", "chat", "text_completion", "embeddings"]
"""What is asked of a model, in the words of OpenTelemetry; empty where nothing is."""

Outcome: TypeAlias = Literal["ok", "error", "cancelled"]


@dataclass(slots=True)
class RequestContext:
    """One request, from its arrival to its end. Durations are nanoseconds, 0 where unknown.

    `started_ns` is by the wall clock, `arrived_ns` by the monotonic one. `trace` holds the W3C headers to
    hand on. `route` is the path as it is registered, empty where there is none; `model` a name that is
    served, never one that was only asked for. `queue_ns`, `prefill_ns` and `decode_ns` are the engine's own
    times; `first_token_ns` is from the request's arrival to the first token. `status` stays 0 where no
    answer began; `answered` tells that it was sent to its end. `finish` is the finish reason. `failure` is
    the name of the error's class, `error` its text as the client read it, `rejection` the reason where the
    request was turned away. `prompt` and `answer` are kept only where `keeps_content`.
    """

    caller: Caller = ANYBODY
    request_id: str = ""
    trace: Mapping[str, str] = field(default_factory=dict[str, str])
    trace_id: str = ""
    started_ns: int = field(default_factory=time.time_ns)
    arrived_ns: int = field(default_factory=time.monotonic_ns)
    method: str = ""
    path: str = ""
    route: str = ""
    operation: Operation = ""
    model: str = ""
    stream: bool = False
    sampling: Sampling | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    load_ns: int = 0
    queue_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0
    first_token_ns: int = 0
    duration_ns: int = 0
    status: int = 0
    answered: bool = False
    finish: str = ""
    failure: str = ""
    error: str = ""
    rejection: str = ""
    keeps_content: bool = False
    reserve: Reserve = _unlimited
    prompt: ChatPrompt | CompletionPrompt | None = None
    answer: str = ""

    @property
    def outcome(self) -> Outcome:
        """How it ended: a client that left before the end has cancelled it."""
        if self.failure or self.status >= 400:
            return "error"
        return "ok" if self.answered else "cancelled"
