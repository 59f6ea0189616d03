"""What is known of a model: how it was configured and what its files say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from app.core.request import Message, Overrides

Capability: TypeAlias = Literal["completion", "embedding", "tools", "thinking", "insert", "vision"]


Text: TypeAlias = str | Callable[[], str]
"""A text, or what reads one that is only shown."""


@dataclass(frozen=True, slots=True)
class ModelName:
    """`host/namespace/model:tag` (docs/reference 3.1); `str()` gives the shortest form, with the tag."""

    model: str
    tag: str = "latest"
    namespace: str = "library"
    host: str = "registry.ollama.ai"

    def __str__(self) -> str:
        short = f"{self.model}:{self.tag}"
        if self.host.lower() != "registry.ollama.ai":
            return f"{self.host}/{self.namespace}/{short}"
        return short if self.namespace.lower() == "library" else f"{self.namespace}/{short}"

    @property
    def canonical(self) -> str:
        """The full form that a few of Ollama's error texts show."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"


ENGINE_FIELDS = ("engine", "chat_template", "tool_parser", "reasoning_parser")
"""What belongs to an engine, and so cannot be set on a model that shares another's."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as the operator configured it (one `--model` or one entry of `models`).

    `source` is a folder, a `.gguf` file, a hub repository or the name of another configured model,
    whose engine is then shared. `template` is a Go template as in a Modelfile; `chat_template` a Jinja
    one. `parsers` None means chosen from the model's own files. `engine` are vLLM engine arguments.
    `renderer`, `parser` and `requires` are what a model of the store says to Ollama; nothing here reads them.
    `adapter` is the folder of a LoRA adapter.
    """

    name: ModelName
    source: str
    system: str = ""
    template: str = ""
    chat_template: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    messages: tuple[Message, ...] = ()
    license: tuple[Text, ...] = ()
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    engine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    adapter: str = ""

    def on_engine_of(self, base: Self) -> Self:
        """The same model with `ENGINE_FIELDS` of `base`.

        All models of an engine need them: it is loaded for whichever of them is asked for first.
        """
        return replace(self, **{name: getattr(base, name) for name in ENGINE_FIELDS})


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A weight's name, element type as Ollama spells it (`F32`, `BF16`) and shape."""

    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ThinkingLevels:
    """What `think` may be for a model: booleans and names, and the one that holds where none is asked for."""

    values: tuple[bool | str, ...]
    default: bool | str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's own files say.

    `digest` is 64 hex characters over the real content and over what the configuration adds to it,
    `size_bytes` the size on disk, `modified_at` aware. `info` is the flat map of `/api/show`
    (`general.architecture`, `llama.context_length`, ...) with long lists kept. `tool_parser` and
    `reasoning_parser` are vLLM parser names. `thinking` is None where the levels are not known. `fim` holds
    the prefix, suffix and middle markers where the vocabulary has them. `engine` are engine arguments that
    the files ask for. `path` is the folder that is served, `gguf` the file that it is made of, where it is.
    """

    path: Path
    digest: str
    size_bytes: int
    modified_at: datetime
    format: str
    family: str
    families: tuple[str, ...]
    parameter_count: int
    parameter_size: str
    quantization: str
    context_length: int
    embedding_length: int
    capabilities: tuple[Capability, ...]
    chat_template: str = ""
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    thinking_variable: str | None = None
    thinking: ThinkingLevels | None = None
    fim: tuple[str, str, str] | None = None
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tensors: tuple[TensorInfo, ...] = ()
    engine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    gguf: Path | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that was checked against its base.

    `path` is a folder with PEFT's two files, which nobody changes. `digest` is 64 hex characters over them:
    equal ones are the same adapter. `rank` is the largest of its modules.
    """

    path: Path
    digest: str
    rank: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Model:
    """A served model. Models with the same `engine_key` share one engine, whatever their `adapter`.

    `sampling` is what its parameters come to, `fault` what is wrong with them: such a model is not run.
    `engine_facts` are those of its engine, where a template of the model's own shows less of it, or other.
    Whoever may change the store chose what is foreign: nothing of it may harm other models or the server.
    """

    spec: ModelSpec
    facts: ModelFacts
    engine_key: str
    parent: str = ""
    sampling: Overrides = field(default_factory=dict[str, Any])
    fault: str = ""
    engine_facts: ModelFacts | None = None
    adapter: Adapter | None = None
    foreign_files: bool = False
    foreign_template: bool = False

    @property
    def name(self) -> ModelName:
        return self.spec.name

    @property
    def nodes(self) -> int:
        """Machines that one engine of the model spans: vLLM's `nnodes`."""
        given = self.spec.engine.get("nnodes")
        return given if isinstance(given, int) and given > 1 else 1

    def can(self, capability: Capability) -> bool:
        return capability in self.facts.capabilities

    def on_engine(self) -> "Model":
        """As its engine is loaded: whichever of its models comes first, the engine can do the same."""
        return self if self.engine_facts is None else replace(self, facts=self.engine_facts)
