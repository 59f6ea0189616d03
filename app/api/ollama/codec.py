"""From the body of a native request to what it asks for. Pure: no model is looked up here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from app.api.format import read_format
from app.api.ollama import schema
from app.api.ollama.bounds import refuse_over_limits
from app.catalogue.names import read_reference
from app.catalogue.parameters import read_parameters
from app.core.errors import InvalidRequest
from app.core.limits import DEFAULTS, InputLimits
from app.core.request import (
    ChatPrompt,
    CompletionPrompt,
    Deferred,
    Embedding,
    Generation,
    Json,
    Load,
    Message,
    Render,
    Request,
    Unload,
)
from app.golang.json import decode
from app.golang.types import Kind, parse

_MOST_LOGPROBS = 20
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Asked:
    """One call to chat or generate; `stream` says how the answer goes out."""

    model: str
    request: Request
    stream: bool
    top_logprobs: int


@dataclass(frozen=True, slots=True)
class ShowCall:
    """One call to show. `system` and `options` override the model's own in the answer."""

    model: str
    verbose: bool = False
    system: str = ""
    options: Mapping[str, Json] = field(default_factory=dict[str, Json])


def to_chat(body: bytes, received_ns: int, *, streams: bool = True, limits: InputLimits = DEFAULTS) -> Asked:
    """Raises `InvalidRequest`, as all of these do. `streams` is for a body that does not say."""
    asked = _parse_answering(schema.CHAT, decode_body(body, limits))
    messages = tuple(asked.messages)
    if asked.system and messages and messages[0].role != "system":
        messages = (Message.of("system", asked.system), *messages)
    prompt = ChatPrompt(messages, tuple(asked.tools))
    return _asked(asked, prompt, received_ns, streams=streams, is_empty=not messages)


def to_generate(
    body: bytes, received_ns: int, *, streams: bool = True, limits: InputLimits = DEFAULTS
) -> Asked:
    asked = _parse_answering(schema.GENERATE, decode_body(body, limits))
    prompt = CompletionPrompt(
        prompt=asked.prompt,
        suffix=asked.suffix,
        system=asked.system,
        template=asked.template,
        context=None if asked.context is None else tuple(asked.context),
        raw=asked.raw,
        images=tuple(asked.images),
    )
    return _asked(asked, prompt, received_ns, streams=streams, is_empty=not asked.prompt)


def to_embed(body: bytes, received_ns: int, *, limits: InputLimits = DEFAULTS) -> Embedding:
    asked = parse(schema.EMBED, decode_body(body, limits))
    return Embedding(
        model=asked.model,
        inputs=_inputs(asked),
        received_ns=received_ns,
        sampling=Deferred(read_parameters, asked.options),
        truncate=asked.truncate,
        dimensions=asked.dimensions,
        keep_alive_s=asked.keep_alive,
    )


def to_embeddings(body: bytes, received_ns: int, *, limits: InputLimits = DEFAULTS) -> Embedding:
    """The older route: one text, never cut."""
    asked = parse(schema.EMBEDDING, decode_body(body, limits))
    return Embedding(
        model=asked.model,
        inputs=(asked.prompt,) if asked.prompt else (),
        received_ns=received_ns,
        sampling=Deferred(read_parameters, asked.options),
        truncate=False,
        keep_alive_s=asked.keep_alive,
    )


def to_show(body: bytes, _received_ns: int = 0, *, limits: InputLimits = DEFAULTS) -> ShowCall:
    asked = parse(schema.SHOW, decode_body(body, limits))
    model = asked.model or asked.name
    if not model.strip():
        raise InvalidRequest("model is required")
    return ShowCall(model, asked.verbose, asked.system, asked.options)


def _parse_answering(kind: Kind[_T], value: Json) -> _T:
    try:
        return parse(kind, value)
    except schema.WrongThink as error:
        error.model = parse(schema.NAMED, value).get("model", "")
        raise


def decode_body(body: bytes, limits: InputLimits) -> Json:
    """The JSON of a body, within the limits.

    Raises:
        InvalidRequest: for what is none, or has too much of something.
    """
    value = decode(body, limits)
    refuse_over_limits(value, len(body), limits)
    return value


def _asked(
    asked: schema.ChatBody | schema.GenerateBody,
    prompt: ChatPrompt | CompletionPrompt,
    received_ns: int,
    *,
    streams: bool,
    is_empty: bool,
) -> Asked:
    """What carries nothing to answer only loads the model, or lets go of it (docs/reference 6.3 and 7.3)."""
    if not 0 <= asked.top_logprobs <= _MOST_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {_MOST_LOGPROBS}")
    generation = Generation(
        asked.model,
        prompt,
        received_ns,
        sampling=Deferred(read_parameters, asked.options),
        constraint=Deferred(read_format, asked.format),
        think=asked.think,
        logprobs=asked.logprobs,
        top_logprobs=asked.top_logprobs,
        keep_alive_s=asked.keep_alive,
        truncate=asked.truncate,
        shift=asked.shift,
        builtin_tools=asked.datai.tools if asked.datai else frozenset(),
        tells_tool_use=asked.datai is not None and asked.datai.progress,
    )
    request: Request = generation
    if is_empty:
        request = Unload(asked.model) if asked.keep_alive == 0 else Load(generation)
    elif asked.debug_render_only:
        request = Render(generation)
    return Asked(asked.model, request, streams if asked.stream is None else asked.stream, asked.top_logprobs)


def _inputs(asked: schema.EmbedBody) -> tuple[str, ...]:
    value = asked.input
    if value is None or value == "":
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        read_reference(asked.model)  # A name that cannot be one is told first.
        raise InvalidRequest("invalid input type")
    return tuple(texts)
