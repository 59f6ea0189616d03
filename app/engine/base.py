"""The seam to an engine: what the runtime may ask of one. `fake/` is the double, `vllm/` the real one."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from prometheus_client import CollectorRegistry

from app.core.events import Delta, Event, Usage
from app.core.model import Adapter
from app.core.request import ChatPrompt, Constraint, Sampling, Think


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt ready for the engine: its text, its token ids and what only that engine understands.

    `image_count` counts pictures; `payload` is the engine's own input object. `continues` says that the
    prompt ends within the assistant's own text, which the reply goes on with.
    """

    text: str
    token_ids: Sequence[int]
    image_count: int = 0
    payload: Any = None
    continues: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """How to generate. `max_tokens` is at least 1 and fits the window; `logprobs` is the number of
    alternatives wanted (0: only the chosen token), None for none. `priority` is vLLM's: a lower number goes
    first where the engine schedules by priority. Runs share cached prefixes where `cache_salt` is the same.
    `trace` holds W3C headers for the engine's own span; `adapter` is what the weights are adapted by. The
    engine fills in `usage` when the run has ended.
    """

    sampling: Sampling
    max_tokens: int
    constraint: Constraint | None = None
    logprobs: int | None = None
    think: Think = None
    chat: ChatPrompt = field(default_factory=ChatPrompt)
    priority: int = 0
    cache_salt: str = ""
    trace: Mapping[str, str] | None = None
    adapter: Adapter | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Vectors:
    """Embeddings in input order (L2-normalised unless asked otherwise) and the tokens they took."""

    values: list[list[float]]
    prompt_tokens: int


Admit: TypeAlias = Callable[[int], Awaitable[int]]
"""Takes the tokens of a request and gives the priority that it has in the engine, once it may begin."""


class Decoder(Protocol):
    """Turns one reply's deltas into events. Stateful: one per reply."""

    def feed(self, delta: Delta) -> list[Event]: ...

    def flush(self) -> list[Event]:
        """What was held back, and the tool calls, once the last delta was fed."""
        ...

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens of the reply are reasoning, once it was flushed."""
        ...


class Answer(Protocol):
    """One answer while it is made."""

    @property
    def decoder(self) -> Decoder | None:
        """How to read it; None when every delta is plain content."""
        ...

    def next(self) -> Awaitable[Delta]:
        """The next delta; the one with a `finish` is the last. Raises what the engine's methods do."""
        ...


class Engine(Protocol):
    """One set of weights that can answer.

    Methods raise `InvalidRequest` for what the client got wrong, `EngineDied` once the process is gone
    and `EngineFailed` for the rest.
    """

    @property
    def window(self) -> int:
        """Tokens that prompt and answer may take together."""
        ...

    @property
    def slots(self) -> int:
        """Requests it works on at once, the others wait in it; 0 is no limit."""
        ...

    @property
    def special_tokens(self) -> Sequence[str]:
        """The texts that stand for control tokens of its vocabulary: no data of others may hold them."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the engine's processes (and, with `vram_bytes`, of the device)."""
        ...

    @property
    def vram_bytes(self) -> int: ...

    async def own_bytes(self) -> int:
        """As `memory_bytes`, but pages that processes share count once among these: cores and workers are
        forked from one server, and would have its pages twice. Takes too long for a list."""
        ...

    @property
    def adapter_rank(self) -> int:
        """The largest rank of adapters that it has room for; 0: for none."""
        ...

    @property
    def can_sleep(self) -> bool:
        """Whether it was loaded so that it can be put to sleep."""
        ...

    def takes(self, adapter: Adapter | None) -> bool:
        """Whether it can answer with the adapter as it is; else it must be loaded anew, knowing of it.

        Raises:
            LoadFailed: where that would not help, with the reason.
        """
        ...

    def forget(self, adapter: Adapter) -> None:
        """No model has the adapter any more; runs under way keep it."""
        ...

    async def render(
        self,
        chat: ChatPrompt,
        *,
        think: Think,
        continue_last: bool,
        chat_template: str = "",
        variables: Mapping[str, Any] | None = None,
        confined: bool = False,
    ) -> Prompt:
        """Apply the chat template. `continue_last` leaves the last assistant message open.

        `variables` are what the client wants the template to see besides; those of the server come first.
        `confined`: the template is not configuration's, and runs in a process with limits.
        """
        ...

    async def tokenize(self, text: str, *, images: Sequence[bytes] = (), special: bool = True) -> Prompt:
        """A prompt of exactly this text; `special` adds the tokens a bare prompt starts with."""
        ...

    async def detokenize(self, token_ids: Sequence[int]) -> str: ...

    def answer(self, prompt: Prompt, run: Run) -> AbstractAsyncContextManager[Answer]:
        """An answer to `prompt`; leaving the context before its last delta aborts the request.

        Entering raises `InvalidRequest` for a run that cannot be honoured, as may the first `next`.
        """
        ...

    async def embed(
        self,
        inputs: Sequence[str],
        *,
        truncate: bool,
        limit: int,
        normalize: bool,
        admit: Admit | None = None,
        cache_salt: str = "",
        trace: Mapping[str, str] | None = None,
    ) -> Vectors:
        """`admit` is asked once all inputs are tokens and before any is worked on."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Gauges by name: at least `running` and `waiting` requests."""
        ...

    @property
    def registry(self) -> CollectorRegistry | None:
        """The engine's own Prometheus metrics, where it has any."""
        ...

    async def wait_dead(self) -> None:
        """Return when the engine's process is gone without having been closed."""
        ...

    async def sleep(self) -> None:
        """Keep the weights in the host's memory and give the device's back, what is cached of prompts too.

        Only where it `can_sleep` and has no request. Until it is woken nothing is asked of it but to end.
        Where this raises, or is cancelled, it can only be closed.
        """
        ...

    async def wake(self) -> None:
        """Be as before `sleep`, but that nothing is cached. Where this raises it can only be closed."""
        ...

    async def close(self) -> None:
        """Stop the processes and give the memory back. Requests in flight end with `EngineDied`."""
        ...
