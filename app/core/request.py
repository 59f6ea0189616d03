"""What a client wants, free of any dialect and any engine. Made once per request, then frozen."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from app.core.once import Once

_T = TypeVar("_T")

Json: TypeAlias = Any
"""A decoded JSON value."""

Think: TypeAlias = bool | str | None
"""Reasoning switch, or a level by the model's name for it; None leaves it to the model's default."""


@dataclass(frozen=True, slots=True)
class Deferred(Generic[_T]):
    """A part of a request that is read later, in the order of checks that clients observe.

    Calling it raises `InvalidRequest` for what is wrong with `value`.
    """

    read: Callable[[Any], _T]
    value: Json = None

    def __call__(self) -> _T:
        return self.read(self.value)


Overrides: TypeAlias = Mapping[str, Any]
"""Fields of `Sampling` by name, of those that somebody has set."""

FOREVER = math.inf
"""A keep-alive that never ends, in seconds."""


@dataclass(frozen=True, slots=True)
class PastToolCall:
    """A tool call in the history the client sends back."""

    name: str
    arguments: Mapping[str, Json]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text in a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in a message: the raw bytes of its file (PNG, JPEG, WebP), already out of base64."""

    data: bytes


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """A picture that the client names by its address; `refusal` is what it reads where none is fetched."""

    url: str
    refusal: str


Part: TypeAlias = Text | Image | RemoteImage


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `parts` are in the order in which the model is to read them."""

    role: str
    parts: tuple[Part, ...] = ()
    thinking: str = ""
    tool_calls: tuple[PastToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""

    @classmethod
    def of(cls, role: str, text: str = "", images: Sequence[bytes] = (), **fields: Any) -> "Message":
        """A message of pictures and then text, as Ollama has them; `fields` are the others."""
        return cls(role, (*map(Image, images), *((Text(text),) if text else ())), **fields)

    @property
    def text(self) -> str:
        """All text, the pieces joined as they are."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def images(self) -> tuple[bytes, ...]:
        return tuple(part.data for part in self.parts if isinstance(part, Image))

    def without_images(self) -> "Message":
        """The same but for its pictures."""
        return replace(self, parts=tuple(part for part in self.parts if isinstance(part, Text)))

    def with_text(self, text: str) -> "Message":
        """The same with other text, which comes behind the pictures."""
        return replace(self, parts=Message.of(self.role, text, self.images).parts)


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
    """The parts of a completion: the model's template puts them together unless `raw`.

    `token_ids`, where they are given, are the whole prompt as they are. `wants_context` asks for the token
    ids of prompt and answer at the end.
    """

    prompt: str = ""
    token_ids: tuple[int, ...] | None = None
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: tuple[int, ...] | None = None
    raw: bool = False
    images: tuple[bytes, ...] = ()
    wants_context: bool = True


def _free(_: Json) -> None:
    return None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model may call tools (`auto`, `none`) or must (`required`, the one of `name`)."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str = ""


@dataclass(frozen=True, slots=True)
class Generation:
    """One call to chat or generate.

    `sampling` and `constraint` are read when the model is known (docs/reference 6.2 and 7.2).
    `keep_alive_s` is None when the client left it out. `received_ns` is `time.monotonic_ns()` when the
    request came in. `schemas` are what the arguments of a tool must be, by its name, where the client wrote
    more than the template may see. `template_variables` are for the chat template, beside those that the
    server sets. `continues` says whether the last message is left open for the answer to go on with; None
    leaves it to the message. Of a prompt with more than `prompt_tokens` tokens (0: any number) the last are
    kept. `builtin_tools` are those that the server itself runs, by switch or name (docs/tools.md), at most
    `most_tool_calls` times (None: as the server and the key allow), and `tells_tool_use` says whether their
    use is told in the answer. `rendered` is where several answers to one prompt have it, as the engine's.
    """

    model: str
    prompt: ChatPrompt | CompletionPrompt
    received_ns: int
    sampling: Deferred[Overrides] = Deferred(dict[str, Any], ())
    constraint: Deferred["Constraint | None"] = Deferred(_free)
    think: Think = None
    logprobs: bool = False
    top_logprobs: int = 0
    keep_alive_s: float | None = None
    truncate: bool = True
    shift: bool = True
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    schemas: Mapping[str, Json] = field(default_factory=dict[str, Json])
    template_variables: Mapping[str, Json] = field(default_factory=dict[str, Json])
    continues: bool | None = None
    prompt_tokens: int = 0
    builtin_tools: frozenset[str] = frozenset()
    most_tool_calls: int | None = None
    tells_tool_use: bool = False
    rendered: Once[Any] | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Have a model loaded and answer nothing; checks and the options for it are those of `wanted`."""

    wanted: Generation


@dataclass(frozen=True, slots=True)
class Unload:
    """Let go of a model once nothing uses it any more."""

    model: str


@dataclass(frozen=True, slots=True)
class Render:
    """Only show the prompt that `wanted` comes to."""

    wanted: Generation


Request: TypeAlias = Generation | Load | Unload | Render


@dataclass(frozen=True, slots=True)
class Embedding:
    """One call to embed. `dimensions` keeps the first n values; 0 keeps all."""

    model: str
    inputs: tuple[str, ...]
    received_ns: int
    sampling: Deferred[Overrides] = Deferred(dict[str, Any], ())
    truncate: bool = True
    dimensions: int = 0
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn, and how many: the defaults, the model's parameters and the request's merged.

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
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])

    @classmethod
    def merged(cls, *layers: Overrides) -> "Sampling":
        """The layers over the defaults, a later one winning field by field."""
        return cls(**{name: value for layer in layers for name, value in layer.items()})


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the answer must be; `grammar` is of the texts that it may be.

    JSON by `schema`, None meaning any JSON object, unless it is one of `choices` or the whole of `regex`, in
    ECMA-262's dialect.
    """

    schema: Mapping[str, Json] | None = None
    grammar: str = ""
    regex: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def is_json(self) -> bool:
        return self.regex is None and not self.choices
