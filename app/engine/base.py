"""The seam to an engine: what the runtime may ask of one. `fake.py` is the double, `vllm/` the real one."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from app.core.events import Delta, Event, Usage
from app.core.request import ChatPrompt, JsonFormat, Sampling, Think


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
    first where the engine schedules by priority. `trace` holds W3C headers for the engine's own span. The
    engine fills in `usage` when the run has ended.
    """

    sampling: Sampling
    max_tokens: int
    format: JsonFormat | None = None
    logprobs: int | None = None
    think: Think = None
    chat: ChatPrompt = field(default_factory=ChatPrompt)
    priority: int = 0
    trace: Mapping[str, str] | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Vectors:
    """Embeddings in input order (L2-normalised unless asked otherwise) and the tokens they took."""

    values: list[list[float]]
    prompt_tokens: int


class Decoder(Protocol):
    """Turns one reply's deltas into events. Stateful: one per reply."""

    def feed(self, delta: Delta) -> list[Event]: ...

    def flush(self) -> list[Event]:
        """What was held back, and the tool calls, once the last delta was fed."""
        ...


class Engine(Protocol):
    """One set of weights that can answer.

    Methods raise `InvalidRequest` for what the client got wrong, `EngineDied` once the process is gone
    and `EngineFailed` for the rest. Closing a `generate` generator aborts its request.
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
    def memory_bytes(self) -> int:
        """Resident memory of the engine's processes (and, with `vram_bytes`, of the device)."""
        ...

    @property
    def vram_bytes(self) -> int: ...

    async def render(
        self, chat: ChatPrompt, *, think: Think, continue_last: bool, chat_template: str = ""
    ) -> Prompt:
        """Apply the chat template. `continue_last` leaves the last assistant message open."""
        ...

    async def tokenize(self, text: str, *, images: Sequence[bytes] = (), special: bool = True) -> Prompt:
        """A prompt of exactly this text; `special` adds the tokens a bare prompt starts with."""
        ...

    async def detokenize(self, token_ids: Sequence[int]) -> str: ...

    def decoder(self, run: Run, prompt: Prompt) -> Decoder | None:
        """How to read this reply; None when every delta is plain content."""
        ...

    def generate(
        self, prompt: Prompt, run: Run, decoder: Decoder | None = None
    ) -> AsyncGenerator[Delta, None]:
        """Deltas as they are made. A run that cannot be honoured raises `InvalidRequest` before the first.

        `decoder` is what `decoder()` returned for this reply: the engine may owe it more than plain text.
        """
        ...

    async def embed(
        self,
        inputs: Sequence[str],
        *,
        truncate: bool,
        limit: int,
        normalize: bool,
        priority: int = 0,
        trace: Mapping[str, str] | None = None,
        usage: Usage | None = None,
    ) -> Vectors:
        """The vectors of all inputs. `usage` learns how many tokens they are as soon as that is known."""
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

    async def close(self) -> None:
        """Stop the processes and give the memory back. Requests in flight end with `EngineDied`."""
        ...
