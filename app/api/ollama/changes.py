"""The requests that change models, field by field (docs/reference 11 and 12), and what they ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.api.bounds import items, refuse_nested, refuse_stops
from app.api.ollama.codec import decode_body
from app.api.ollama.schema import MESSAGE
from app.catalogue.names import parse_name, split_source
from app.core.errors import CreateFailed, Forbidden, InvalidRequest
from app.core.limits import DEFAULTS, InputLimits, refuse_over
from app.core.model import ModelName
from app.core.request import Json, Message
from app.golang.quote import quoted
from app.golang.types import ANY, BOOL, MAP, STRING, Kind, Mismatch, list_of, parse, struct
from app.registry.challenge import Login
from app.runtime.creation import Creation
from app.runtime.creationchecks import read_files

_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBody:
    """`from` is `base`; None of a map is one that was not sent."""

    model: str = ""
    name: str = ""
    base: str = ""
    files: Mapping[str, str] | None = None
    adapters: Mapping[str, str] | None = None
    draft_files: Mapping[str, str] | None = None
    draft_quantize: str = ""
    template: str = ""
    system: str = ""
    license: Json = None
    parameters: Mapping[str, Json] = field(default_factory=dict[str, Json])
    messages: list[Message] = field(default_factory=list[Message])
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    capabilities: list[str] = field(default_factory=list[str])
    quantize: str = ""
    quantization: str = ""
    info: Mapping[str, Json] | None = None
    remote_host: str = ""
    stream: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferBody:
    """`name` is the old spelling of `model`."""

    model: str = ""
    name: str = ""
    insecure: bool = False
    username: str = ""
    password: str = ""
    stream: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyBody:
    source: str = ""
    destination: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteBody:
    model: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class CreateCall:
    """One call to create; `stream` says how the answer goes out."""

    asked: Creation
    stream: bool


@dataclass(frozen=True, slots=True)
class TransferCall:
    """One call to pull or push; `model` is the name as it was sent."""

    model: str
    name: ModelName
    insecure: bool
    login: Login = field(repr=False)
    stream: bool


def to_create(body: bytes, _received_ns: int = 0, *, limits: InputLimits = DEFAULTS) -> CreateCall:
    """Raises:
    InvalidRequest: in the order and words of docs/reference 11.1.
    CreateFailed: for what Ollama calls its own fault.
    """
    asked = parse(CREATE, _renamed(decode_body(body, limits)))
    _refuse_over_limits(asked, limits)
    for files in (asked.files, asked.draft_files, asked.adapters):
        read_files(files or {})
    if asked.draft_quantize and not asked.draft_files:
        raise InvalidRequest("--draft-quantize requires a DRAFT model")
    name = parse_name(asked.model or asked.name)
    _refuse_unserved(asked)
    base = None
    if asked.base:
        text, source = split_source(asked.base)
        base = parse_name(text)
        if source == "cloud":
            raise Forbidden("ollama cloud is disabled: remote model is unavailable")
    elif asked.files is not None and not asked.files:
        raise InvalidRequest("unknown type")
    return CreateCall(
        Creation(
            name,
            base=base,
            files=None if base else asked.files,
            adapters=asked.adapters,
            template=asked.template,
            system=asked.system,
            parameters=asked.parameters,
            messages=tuple(map(_checked, asked.messages)),
            license=_licenses(asked.license),
            quantize=asked.quantize or asked.quantization,
            capabilities=tuple(filter(None, asked.capabilities)),
            config={"renderer": asked.renderer, "parser": asked.parser, "requires": asked.requires},
        ),
        asked.stream,
    )


def to_pull(body: bytes, _received_ns: int = 0, *, limits: InputLimits = DEFAULTS) -> TransferCall:
    """Raises: InvalidRequest, Forbidden: as docs/reference 3.4 and 3.5 say of pull."""
    asked = parse(PULL, decode_body(body, limits))
    model = asked.model or asked.name
    if not model.strip():
        raise InvalidRequest("invalid model name")
    text, source = split_source(model)
    name = parse_name(text)
    if source == "cloud":
        raise Forbidden("ollama cloud is disabled: remote model is unavailable")
    return TransferCall(model, name, asked.insecure, Login(asked.username, asked.password), asked.stream)


def to_push(body: bytes, _received_ns: int = 0, *, limits: InputLimits = DEFAULTS) -> TransferCall:
    """Raises:
    InvalidRequest: for a body that cannot be read, or names nothing.
    CreateFailed: for what is no name: 500 in Ollama.
    """
    asked = parse(PUSH, decode_body(body, limits))
    model = asked.model or asked.name
    if not model:
        raise InvalidRequest("model is required")
    try:
        name = parse_name(model)
    except InvalidRequest as error:
        raise CreateFailed(f"unqualified name: {model}") from error
    return TransferCall(model, name, asked.insecure, Login(asked.username, asked.password), asked.stream)


def to_copy(
    body: bytes, _received_ns: int = 0, *, limits: InputLimits = DEFAULTS
) -> tuple[CopyBody, ModelName, ModelName]:
    """What was sent, and the names of source and destination.

    Raises:
        InvalidRequest: saying which of the two is no name.
    """
    asked = parse(COPY, decode_body(body, limits))
    return asked, _named("source", asked.source), _named("destination", asked.destination)


def to_delete(body: bytes, _received_ns: int = 0, *, limits: InputLimits = DEFAULTS) -> tuple[str, ModelName]:
    """The model as it was sent, and its name.

    Raises:
        InvalidRequest: in Ollama's words.
    """
    asked = parse(DELETE, decode_body(body, limits))
    model = asked.model or asked.name
    if not model.strip():
        raise InvalidRequest("model is required")
    text, source = split_source(model)
    if source == "cloud":  # the name of a stub, of which there are none
        text = f"{text}-cloud" if ":" in text else f"{text}:cloud"
    try:
        return model, parse_name(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"name {quoted(model)} is invalid") from error


def _renamed(value: Json) -> Json:
    """`from`, which can name no field here, as `base`; in any case of letters, the last one counting."""
    if not isinstance(value, dict):
        return value
    return {("base" if key.lower() == "from" else key): item for key, item in value.items() if key != "base"}


def _refuse_over_limits(asked: CreateBody, limits: InputLimits) -> None:
    """Raises: InvalidRequest: naming the field, the limit and what came."""
    refuse_nested("parameters", dict(asked.parameters), limits)
    refuse_over(
        "parameters", limits.options, sum(max(1, len(items(each))) for each in asked.parameters.values())
    )
    refuse_stops(asked.parameters.get("stop"), limits)
    refuse_over("messages", limits.messages, len(asked.messages))
    refuse_over("images", limits.images, sum(len(message.images) for message in asked.messages))
    calls = [dict(call.arguments) for message in asked.messages for call in message.tool_calls]
    refuse_over("tool_calls", limits.tool_calls, len(calls))
    refuse_nested("messages.tool_calls", calls, limits)
    refuse_over("template", limits.template_chars, len(asked.template), " characters")
    refuse_over("system", limits.text_chars, len(asked.system), " characters")
    for name in ("files", "adapters", "draft_files"):
        refuse_over(name, limits.create_files, len(getattr(asked, name) or ()))
    refuse_over("license", limits.create_files, len(items(asked.license)))


def _refuse_unserved(asked: CreateBody) -> None:
    """Raises: InvalidRequest: for what would otherwise be left out in silence."""
    if asked.draft_files:
        raise InvalidRequest(
            "draft models are not served by this release: configure speculation as an engine argument"
        )
    if asked.remote_host:
        raise InvalidRequest("remote models are not served by this server")
    if asked.info:
        raise InvalidRequest("info cannot be overridden here: it is read from the model's own files")


def _licenses(value: Json) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list):
        kinds = {int: "number", float: "number", bool: "bool", dict: "object"}
        raise CreateFailed(f"json: cannot unmarshal {kinds[type(texts)]} into Go value of type []string")
    if not all(isinstance(text, str) for text in texts):
        raise CreateFailed("json: cannot unmarshal a license that is no string into Go value of type string")
    return tuple(text for text in texts if text)


def _checked(message: Message) -> Message:
    """Raises: InvalidRequest: for a role that Ollama does not know."""
    if message.role not in _ROLES:
        raise InvalidRequest(f"a message's role must be one of {', '.join(_ROLES)}")
    return message


def _named(what: str, text: str) -> ModelName:
    try:
        return parse_name(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{what} {quoted(text)} is invalid") from error


def _read_texts(value: Json) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Mismatch(value, "map[string]string")
    return {key: STRING.read(item) if item is not None else "" for key, item in value.items()}


_TEXTS: Kind[dict[str, str]] = Kind("map[string]string", _read_texts, dict)
_TRANSFER: Mapping[str, Kind[object]] = {
    "model": STRING,
    "name": STRING,
    "insecure": BOOL,
    "username": STRING,
    "password": STRING,
    "stream": BOOL,
}

CREATE: Kind[CreateBody] = struct(
    "CreateRequest",
    CreateBody,
    {
        **dict.fromkeys(
            ("model", "name", "base", "template", "system", "renderer", "parser", "requires"), STRING
        ),
        **dict.fromkeys(("quantize", "quantization", "draft_quantize", "remote_host"), STRING),
        **dict.fromkeys(("files", "adapters", "draft_files"), _TEXTS),
        "license": ANY,
        "capabilities": list_of(STRING),
        "parameters": MAP,
        "messages": list_of(MESSAGE),
        "info": MAP,
        "stream": BOOL,
    },
)
PULL: Kind[TransferBody] = struct("PullRequest", TransferBody, _TRANSFER)
PUSH: Kind[TransferBody] = struct("PushRequest", TransferBody, _TRANSFER)
COPY: Kind[CopyBody] = struct("CopyRequest", CopyBody, {"source": STRING, "destination": STRING})
DELETE: Kind[DeleteBody] = struct("DeleteRequest", DeleteBody, {"model": STRING, "name": STRING})
