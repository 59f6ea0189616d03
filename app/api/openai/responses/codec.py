"""From the body of a request for a response to what it asks for. Pure: no model is looked up here."""

from dataclasses import dataclass, replace
from typing import Any

from app.api.openai.responses import schema
from app.api.openai.responses.bounds import refuse_over_limits
from app.api.openai.responses.choice import read_choice
from app.api.openai.responses.compaction import Compaction, compaction_of
from app.api.openai.responses.echo import Echo, echo_of
from app.api.openai.responses.history import messages_of
from app.api.openai.responses.items import Conversation, read_input
from app.api.openai.responses.templates import plainer
from app.api.openai.responses.tools import Toolbox
from app.catalogue.parameters import read_parameters
from app.core.errors import InvalidRequest
from app.core.limits import DEFAULTS, InputLimits
from app.core.request import ChatPrompt, Constraint, Deferred, Generation, Json, Think
from app.golang.json import decode
from app.golang.quote import quoted
from app.golang.types import parse

_MOST_LOGPROBS = 20
_TIERS = ("", "auto", "default", "priority", "flex")
_LOGPROBS = "message.output_text.logprobs"


@dataclass(frozen=True, slots=True)
class Asked:
    """One call for a response.

    `plainer` is what may be asked where a template refuses `generation`. `effort` is by name, None where
    `think` of the generation stands. `waits_longer`: others of the same key are served first. `compaction` is
    what was asked for in place of an answer.
    """

    generation: Generation
    plainer: Generation | None
    stream: bool
    is_load: bool
    effort: str | None
    waits_longer: bool
    toolbox: Toolbox
    echo: Echo
    compaction: Compaction | None

    @property
    def model(self) -> str:
        return self.generation.model

    def thinking(self, think: Think) -> "Asked":
        """The same with another `think`, whatever is run of it."""
        plain, compaction = self.plainer, self.compaction
        return replace(
            self,
            generation=replace(self.generation, think=think),
            plainer=None if plain is None else replace(plain, think=think),
            compaction=None if compaction is None else compaction.thinking(think),
        )


def to_response(body: bytes, received_ns: int, *, limits: InputLimits = DEFAULTS) -> Asked:
    """What a body asks for.

    Raises:
        InvalidRequest: with Ollama's text where it has one; for every field that cannot be honoured.
    """
    asked = parse(schema.RESPONSES, _decode(body, limits))
    _refuse_unserved(asked)
    conversation = read_input(asked.input, limits)
    toolbox = _toolbox(asked.tools, conversation)
    choice = read_choice(asked.tool_choice, toolbox)
    temperature = 1.0 if asked.temperature is None else asked.temperature
    messages = messages_of(conversation.items, asked.instructions or "")
    if not 0 <= asked.top_logprobs <= _MOST_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {_MOST_LOGPROBS}")
    think, effort = _thinking(asked)
    generation = Generation(
        asked.model,
        ChatPrompt(messages, toolbox.specs),
        received_ns,
        sampling=Deferred(read_parameters, _options(asked, temperature)),
        constraint=Deferred(read_format, asked.text.format),
        think=think,
        logprobs=bool(asked.top_logprobs) or _LOGPROBS in asked.include,
        top_logprobs=asked.top_logprobs,
        truncate=asked.truncation != "disabled",
        shift=asked.truncation != "disabled",
        tool_choice=choice,
        parallel_tool_calls=asked.parallel_tool_calls,
        schemas=toolbox.schemas,
        builtin_tools=toolbox.built_in,
        most_tool_calls=asked.max_tool_calls,
        tells_tool_use=bool(toolbox.built_in),
    )
    return Asked(
        generation,
        plainer(generation),
        asked.stream,
        not messages,
        effort,
        asked.service_tier == "flex",
        toolbox,
        echo_of(asked, temperature),
        _compaction(asked, conversation, generation),
    )


def to_compaction(body: bytes, received_ns: int, *, limits: InputLimits = DEFAULTS) -> Compaction:
    """What the body of a request for a compaction asks for.

    Raises:
        InvalidRequest: as `to_response`, with the texts of docs/reference 22.3.
    """
    value = decode(body, limits)
    refuse_over_limits(value, len(body), limits)
    asked = parse(schema.COMPACT, value)
    if not asked.model.strip():
        raise InvalidRequest("model is required")
    if asked.input is None:
        raise InvalidRequest("input is required")
    _refuse_stored(asked.previous_response_id)
    conversation = read_input(asked.input, limits)
    if conversation.is_compacted_next:
        raise InvalidRequest("compaction_trigger is only valid on POST /v1/responses")
    _toolbox(asked.tools, conversation)
    return compaction_of(conversation, Generation(asked.model, ChatPrompt(), received_ns))


def read_format(wanted: schema.FormatBody | None) -> Constraint | None:
    """What `text.format` keeps the answer to; None for one that is free.

    Raises:
        InvalidRequest: for an unknown type, and for a schema that is missing.
    """
    match wanted.type.strip().lower() if wanted is not None else "":
        case "" | "text":
            return None
        case "json_object":
            return Constraint()
        case "json_schema" if wanted is not None:
            if not isinstance(wanted.schema, dict):
                raise InvalidRequest("text.format: json_schema needs a schema, which must be an object")
            return Constraint(wanted.schema)
        case other:
            raise InvalidRequest(f"text.format: unknown type {quoted(other)}")


def _decode(body: bytes, limits: InputLimits) -> Json:
    if not body.strip():
        raise InvalidRequest("EOF")
    value = decode(body, limits)
    refuse_over_limits(value, len(body), limits)
    return value


def _refuse_unserved(asked: schema.ResponsesBody) -> None:
    _refuse_stored(asked.previous_response_id)
    if asked.background or asked.conversation:
        raise InvalidRequest(
            "background and conversation are not supported; send the whole conversation in input instead"
        )
    if asked.prompt:
        raise InvalidRequest("prompt templates are not supported, send their text in instructions and input")
    if asked.context_management:
        raise InvalidRequest(
            "context_management is not supported, ask for a compaction by POST /v1/responses/compact"
        )
    if asked.moderation:
        raise InvalidRequest(
            "moderation is not supported: nothing that is asked or answered here is moderated"
        )
    if asked.datai:
        raise InvalidRequest("datai: built-in tools are asked for on /api; here give web_search as a tool")
    if isinstance(options := asked.prompt_cache_options, dict) and options.get("prewarm"):
        raise InvalidRequest("prompt_cache_options.prewarm is not supported: every request is answered")
    if asked.service_tier not in _TIERS:
        raise InvalidRequest(
            f"invalid service_tier: {quoted(asked.service_tier)} "
            '(must be "auto", "default", "priority" or "flex")'
        )
    if asked.truncation not in ("", "auto", "disabled"):
        raise InvalidRequest(f"invalid truncation: {quoted(asked.truncation)} (must be auto or disabled)")


def _refuse_stored(response_id: str) -> None:
    if response_id:
        raise InvalidRequest(
            "previous_response_id is not supported, send the whole conversation in input instead"
        )


def _toolbox(tools: list[Json], conversation: Conversation) -> Toolbox:
    toolbox = Toolbox()
    toolbox.add_all(tools)
    for where, more in conversation.tools:
        toolbox.add_all(more, where)
    return toolbox


def _thinking(asked: schema.ResponsesBody) -> tuple[Think, str | None]:
    """Ollama's `think` wins over `reasoning`."""
    if asked.think is not None:
        return asked.think, None
    return None, asked.reasoning.effort if asked.reasoning is not None else ""


def _options(asked: schema.ResponsesBody, temperature: float) -> dict[str, Any]:
    options = {"num_predict": asked.max_output_tokens, "temperature": temperature, "top_p": asked.top_p}
    return {name: value for name, value in options.items() if value is not None}


def _compaction(
    asked: schema.ResponsesBody, conversation: Conversation, generation: Generation
) -> Compaction | None:
    if not conversation.is_compacted_next:
        return None
    if not asked.stream:
        raise InvalidRequest("compaction_trigger requires stream=true")
    return compaction_of(conversation, generation)
