"""From the body of a Messages request to what it asks for. Pure: no model is looked up here."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.api.anthropic.blocks import to_messages
from app.api.anthropic.bounds import refuse_over_limits
from app.api.anthropic.failure import NoThreads
from app.api.anthropic.schema import MESSAGES, MessagesBody
from app.api.anthropic.thinking import Thinking, to_thinking
from app.api.anthropic.tools import to_built_in, to_choice, to_functions, to_schemas
from app.catalogue.parameters import read_parameters
from app.core.errors import InvalidRequest
from app.core.limits import DEFAULTS, InputLimits
from app.core.request import ChatPrompt, Constraint, Deferred, Generation, Json
from app.golang.json import decode
from app.golang.quote import quoted
from app.golang.types import parse

_NO_PLACE: Mapping[str, str] = {
    "container": "this server has no containers",
    "mcp_servers": "this server calls no MCP servers: give their tools as `tools`",
    "datai": "built-in tools are asked for on /api; here give web_search or web_fetch as a tool",
}
"""Fields that ask a server for what this one does not have; empty they ask for nothing."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One call. `generation.think` is open until the model is known: `thinking` says what was asked.

    Without any message the model is only loaded. `stops` are the client's own stop sequences.
    """

    generation: Generation
    thinking: Thinking
    stream: bool
    stops: tuple[str, ...]

    @property
    def only_loads(self) -> bool:
        prompt = self.generation.prompt
        return isinstance(prompt, ChatPrompt) and not prompt.messages


def to_message(body: bytes, received_ns: int, *, limits: InputLimits = DEFAULTS) -> Asked:
    """Raises `InvalidRequest`, in the order of docs/reference 15.1."""
    return _asked(_read(body, limits), received_ns, counted_only=False)


def to_count(body: bytes, received_ns: int, *, limits: InputLimits = DEFAULTS) -> Asked:
    """A call to count_tokens, which has no `max_tokens`. Raises like `to_message`."""
    return _asked(_read(body, limits), received_ns, counted_only=True)


def _read(body: bytes, limits: InputLimits) -> MessagesBody:
    if not body.strip(b" \t\r\n"):
        raise InvalidRequest("EOF")
    value = decode(body, limits)
    refuse_over_limits(value, len(body), limits)
    return parse(MESSAGES, value)


def _asked(asked: MessagesBody, received_ns: int, *, counted_only: bool) -> Asked:
    if not asked.model:
        raise InvalidRequest("model is required")
    if asked.max_tokens <= 0 and not counted_only:
        raise InvalidRequest("max_tokens is required and must be positive")
    if not asked.messages:
        raise InvalidRequest("messages is required")
    for name, why in _NO_PLACE.items():
        if getattr(asked, name):
            raise InvalidRequest(f"{name}: {why}")
    if asked.thread:
        raise NoThreads
    if asked.compaction and not counted_only:
        raise InvalidRequest("compaction: this server sums up no conversations: ask the model for it")
    prompt = ChatPrompt(to_messages(asked.system, asked.messages), to_functions(asked.tools))
    built_in, most_calls = to_built_in(asked.tools)
    generation = Generation(
        asked.model,
        prompt,
        received_ns,
        sampling=Deferred(read_parameters, {} if counted_only else _options(asked)),
        constraint=Deferred(_read_format, asked.output_config.format or asked.output_format),
        tool_choice=to_choice(asked.tool_choice, asked.tools),
        schemas=to_schemas(asked.tools),
        parallel_tool_calls=not (asked.tool_choice and asked.tool_choice.disable_parallel_tool_use),
        builtin_tools=built_in,
        most_tool_calls=most_calls,
        tells_tool_use=bool(built_in),
    )
    thinking = to_thinking(asked.thinking, asked.output_config.effort)
    return Asked(generation, thinking, asked.stream, tuple(asked.stop_sequences))


def _options(asked: MessagesBody) -> Mapping[str, Json]:
    """Only what was given: the model's own parameters hold for the rest (docs/reference 15.2)."""
    given = {"temperature": asked.temperature, "top_p": asked.top_p, "top_k": asked.top_k}
    stops = {"stop": asked.stop_sequences} if asked.stop_sequences else {}
    return {"num_predict": asked.max_tokens, **given, **stops}


def _read_format(value: Json) -> Constraint | None:
    """Raises: InvalidRequest: for anything but null and a JSON Schema."""
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind != "json_schema":
        raise InvalidRequest(f"output_config.format: type must be json_schema, not {quoted(str(kind))}")
    if not isinstance(schema := value.get("schema"), dict):
        raise InvalidRequest("output_config.format: schema is required and must be an object")
    return Constraint(schema)
