"""What a client wants, free of any dialect and any engine. Made once per request, then frozen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Json: TypeAlias = Any
"""A decoded JSON value."""

Think: TypeAlias = bool | str | None
"""Reasoning switch, or a level by the model's name for it; None leaves it to the model's default."""

FOREVER = math.inf
"""A keep-alive that never ends, in seconds."""


@dataclass(frozen=True, slots=True)
class PastToolCall:
    """A tool call in the history the client sends back."""

    name: str
    arguments: Mapping[str, Json]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `images` are raw file bytes (PNG, JPEG, WebP), already out of base64."""

    role: str
    content: str = ""
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    tool_calls: tuple[PastToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """The messages of a chat and the tools the model may call.

    `tools` are `{"type": "function", "function": {...}}` objects that hold only the keys the
    template may see (docs/reference 7.1).
    """

    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Json], ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionPrompt:
    """The parts of a completion: the model's template puts them together unless `raw`."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: tuple[int, ...] | None = None
    raw: bool = False
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """One call to chat or generate.

    `options` and `format` are kept as sent: they are read when the model is known, in the order of
    checks that clients observe (docs/reference 6.2 and 7.2). `keep_alive_s` is None when the client
    left it out. `received_ns` is `time.monotonic_ns()` when the request came in.
    """

    model: str
    prompt: ChatPrompt | CompletionPrompt
    received_ns: int
    options: Mapping[str, Json] = field(default_factory=dict[str, Json])
    format: Json = None
    think: Think = None
    logprobs: bool = False
    top_logprobs: int = 0
    keep_alive_s: float | None = None
    truncate: bool = True
    shift: bool = True
    debug_render_only: bool = False


@dataclass(frozen=True, slots=True)
class Embedding:
    """One call to embed. `dimensions` keeps the first n values; 0 keeps all."""

    model: str
    inputs: tuple[str, ...]
    received_ns: int
    options: Mapping[str, Json] = field(default_factory=dict[str, Json])
    truncate: bool = True
    dimensions: int = 0
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """Ollama's options after defaults, the model's parameters and the request are merged.

    Values are as the client means them; what an engine cannot take is bent in that engine.
    `num_ctx` None means the model's default window.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = -1
    num_predict: int = -1
    num_ctx: int | None = None
    num_keep: int = 4
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """The answer must be JSON; `schema` None means any JSON object. `grammar` is of the texts it may be."""

    schema: Mapping[str, Json] | None = None
    grammar: str = ""
