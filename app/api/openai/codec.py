"""From the body of an OpenAI request to what it asks for. Pure: no model is looked up here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.api.bounds import items
from app.api.format import read_format
from app.api.openai import schema
from app.api.openai.bounds import refuse_choices, refuse_over_limits
from app.api.openai.constraints import read_guided, read_response_format
from app.api.openai.extras import CHAT_REFUSED, REFUSED, read_bool, read_int, refuse_unsupported, wrong_value
from app.api.openai.messages import to_messages
from app.api.openai.sampling import read_sampling
from app.api.openai.tools import allowed, read_choice, schemas_of
from app.catalogue.parameters import read_parameters
from app.core.errors import InvalidRequest
from app.core.limits import DEFAULTS, InputLimits
from app.core.once import Once
from app.core.request import (
    ChatPrompt,
    CompletionPrompt,
    Constraint,
    Deferred,
    Embedding,
    Generation,
    Json,
    Overrides,
    Text,
    Think,
)
from app.golang.json import decode
from app.golang.types import parse

_WHITE_SPACE = b" \t\r\n"
_MOST_LOGPROBS = 20
_MOST_CUT = 1 << 31
_LOWEST_PRIORITY = 1 << 20
_THINK_VARIABLES = ("enable_thinking", "thinking")
_EFFORT = "reasoning_effort"
_FORMATS = ("float", "base64")


@dataclass(frozen=True, slots=True)
class Asked:
    """One call to chat or completions.

    `generations` has an item for each answer, in the order of their indices; every `per_prompt` of them have
    the same prompt. None of them means that the model is only to be loaded, as `wanted` would have it.
    `effort` is what was asked for by name, which the model's levels decide upon. `lower_priority` is how much
    later than the key's others the request may be served.
    """

    model: str
    wanted: Generation
    generations: tuple[Generation, ...]
    stream: bool
    include_usage: bool
    per_prompt: int = 1
    effort: str | None = None
    top_logprobs: int = 0
    debug_render_only: bool = False
    lower_priority: int = 0
    service_tier: str = ""
    echoes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EmbeddingsCall:
    """One call to embeddings; `as_base64` says how the vectors go out."""

    wanted: Embedding
    as_base64: bool
    extra: Mapping[str, Json] = field(default_factory=dict[str, Json])


def to_chat(body: bytes, received_ns: int, *, limits: InputLimits = DEFAULTS) -> Asked:
    """Raises `InvalidRequest`, as all of these do."""
    asked = parse(schema.CHAT, _decode(body, limits))
    if not asked.messages:
        raise InvalidRequest("[] is too short - 'messages'")
    messages = to_messages(asked.messages, limits)
    refuse_unsupported(asked.extra, {**REFUSED, **CHAT_REFUSED})
    think, effort, variables = _thinking(asked)
    _check_logprobs(asked.top_logprobs)
    choice = read_choice(asked.extra.get("tool_choice"))
    constraint = _constraint(asked, limits, called=choice.mode == "required")
    wanted = Generation(
        asked.model,
        ChatPrompt(messages, allowed(asked.tools.seen, asked.extra.get("tool_choice"))),
        received_ns,
        sampling=_sampling(read_sampling(asked, limits), asked.stop),
        constraint=constraint,
        think=think,
        logprobs=asked.logprobs,
        top_logprobs=asked.top_logprobs,
        tool_choice=choice,
        parallel_tool_calls=read_bool(asked.extra, "parallel_tool_calls", default=True),
        schemas=schemas_of(asked.tools.sent),
        template_variables=variables,
        continues=_continues(asked.extra),
        prompt_tokens=_kept_tokens(asked.extra),
    )
    count = _count(asked.extra, 1, limits)
    return Asked(
        asked.model,
        wanted,
        _answers([wanted], count) if messages else (),
        asked.stream,
        asked.include_usage,
        per_prompt=count,
        effort=effort,
        top_logprobs=asked.top_logprobs,
        debug_render_only=asked.debug_render_only,
        **_turn(asked.extra),
    )


def to_completion(body: bytes, received_ns: int, *, limits: InputLimits = DEFAULTS) -> Asked:
    asked = parse(schema.COMPLETION, _decode(body, limits))
    refuse_unsupported(asked.extra)
    prompts = _prompts(asked.prompt)
    for stop in items(asked.stop):
        if not isinstance(stop, str):
            raise InvalidRequest(f"invalid type for 'stop' field: {_go_type(stop)}")
    logprobs = asked.logprobs or 0
    _check_logprobs(logprobs)
    named = {"frequency_penalty": 0.0, "presence_penalty": 0.0, **read_sampling(asked, limits)}
    if asked.top_p == 0:
        named["top_p"] = 1.0
    wanted = Generation(
        asked.model,
        CompletionPrompt(suffix=asked.suffix),
        received_ns,
        sampling=_sampling(named, asked.stop),
        constraint=_constraint(asked, limits),
        logprobs=asked.logprobs is not None,
        top_logprobs=logprobs,
        prompt_tokens=_kept_tokens(asked.extra),
    )
    count = _count(asked.extra, len(prompts), limits)
    best_of = read_int(asked.extra, "best_of", least=1, most=_MOST_CUT)
    if best_of not in (None, count):
        raise InvalidRequest("best_of: every answer that is made is given; use n")
    echo = read_bool(asked.extra, "echo", default=False)
    if echo and (asked.logprobs is not None or not all(isinstance(each, str) for each in prompts)):
        raise InvalidRequest("echo is not supported with logprobs or prompts of token ids")
    each = [_prompted(wanted, prompt) for prompt in prompts]
    return Asked(
        asked.model,
        wanted,
        _answers(each, count),
        asked.stream,
        asked.include_usage,
        per_prompt=count,
        top_logprobs=logprobs,
        echoes=tuple(prompt for prompt in prompts if isinstance(prompt, str)) if echo else (),
        **_turn(asked.extra),
    )


def to_embeddings(body: bytes, received_ns: int, *, limits: InputLimits = DEFAULTS) -> EmbeddingsCall:
    asked = parse(schema.EMBEDDINGS, _decode(body, limits))
    encoding = asked.encoding_format.lower() or _FORMATS[0]
    if encoding not in _FORMATS:
        raise InvalidRequest(
            f"Invalid value for 'encoding_format' = {asked.encoding_format}. "
            "Supported values: ['float', 'base64']."
        )
    if asked.input is None or asked.input == []:
        raise InvalidRequest("invalid input")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("invalid input type")
    if asked.extra.get("truncate_prompt_tokens") not in (None, -1):
        raise InvalidRequest("truncate_prompt_tokens: an input that is too long is cut to the model's window")
    wanted = Embedding(
        model=asked.model,
        inputs=tuple(texts),
        received_ns=received_ns,
        dimensions=asked.dimensions,
    )
    return EmbeddingsCall(wanted, encoding == "base64", asked.extra)


def lower_priority(extra: Mapping[str, Json]) -> int:
    """How much later than others of its key a request may be served; nothing brings one forward."""
    tier = extra.get("service_tier")
    if tier not in (None, "auto", "default", "priority", "flex"):
        raise wrong_value("service_tier", tier, '"auto", "default", "priority" or "flex"')
    named = read_int(extra, "priority", least=-_LOWEST_PRIORITY, most=_LOWEST_PRIORITY, default=0)
    return max(named or 0, int(tier == "flex"))


def _decode(body: bytes, limits: InputLimits) -> Json:
    if not body.strip(_WHITE_SPACE):
        raise InvalidRequest("EOF")
    value = decode(body, limits)
    refuse_over_limits(value, len(body), limits)
    return value


def _sampling(named: Overrides, stop: Json) -> Deferred[Overrides]:
    """Read with the model's other parameters, so that a wrong one is told in the same words and order."""
    stops = [stop] if isinstance(stop, str) else [text for text in items(stop) if isinstance(text, str)]
    layers = ({"stop": stops}, named) if stops else ({}, named)
    return Deferred(_merged, layers)


def _merged(layers: tuple[Mapping[str, Json], Overrides]) -> Overrides:
    """Ollama's options keep their own checks; what is not among them was read before."""
    options, named = layers
    return {**named, **read_parameters({**named, **options})}


def _constraint(
    asked: schema.ChatBody | schema.CompletionBody, limits: InputLimits, *, called: bool = False
) -> Deferred[Constraint | None]:
    guided = read_guided(asked.extra, limits)
    response_format = read_response_format(asked.response_format)
    if guided is not None and (response_format is not None or called):
        raise InvalidRequest("an answer can be kept to one of response_format, tool_choice and guided fields")
    if guided is not None:
        return Deferred(lambda _: guided)
    return Deferred(read_format, response_format)


def _thinking(asked: schema.ChatBody) -> tuple[Think, str | None, Mapping[str, Json]]:
    """The switch, the level's name, and what is left of the template's variables."""
    variables = asked.extra.get("chat_template_kwargs")
    if variables is None:
        variables = {}
    if not isinstance(variables, dict):
        raise InvalidRequest("chat_template_kwargs must be an object")
    effort = asked.reasoning_effort if asked.reasoning is None else asked.reasoning
    switches = [variables[name] for name in _THINK_VARIABLES if isinstance(variables.get(name), bool)]
    named = variables.get(_EFFORT)
    kept = {
        name: value
        for name, value in variables.items()
        if not (name in _THINK_VARIABLES and isinstance(value, bool))
        and not (name == _EFFORT and isinstance(value, str))
    }
    if not effort and isinstance(named, str):
        effort = named
    return (switches[0] if switches and not effort else None), effort, kept


def _check_logprobs(count: int) -> None:
    if not 0 <= count <= _MOST_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {_MOST_LOGPROBS}")


def _continues(extra: Mapping[str, Json]) -> bool | None:
    """Whether the last message is to be gone on with; None leaves that to the message."""
    named = extra.get("continue_final_message")
    continues = read_bool(extra, "continue_final_message", default=False)
    if extra.get("add_generation_prompt") is None:
        return None if named is None else continues
    opens = read_bool(extra, "add_generation_prompt", default=True)
    if opens == continues:
        raise InvalidRequest("set one of add_generation_prompt and continue_final_message")
    return continues


def _kept_tokens(extra: Mapping[str, Json]) -> int:
    """-1 is vLLM's word for what fits, which is kept anyway."""
    named = read_int(extra, "truncate_prompt_tokens", least=-1, most=_MOST_CUT, default=-1) or -1
    return max(named, 0)


def _count(extra: Mapping[str, Json], prompts: int, limits: InputLimits) -> int:
    count = read_int(extra, "n", least=1, most=_MOST_CUT, default=1) or 1
    refuse_choices("n", count * prompts, limits)
    return count


def _answers(prompts: Sequence[Generation], count: int) -> tuple[Generation, ...]:
    """`count` answers to each; those with a seed have one each, or they would all be the same."""
    if count > 1:
        prompts = [each if _has_pictures(each) else replace(each, rendered=Once()) for each in prompts]
    return tuple(_nth(each, nth) for each in prompts for nth in range(count))


def _has_pictures(asked: Generation) -> bool:
    """The engine's cache of pictures follows the order in which prompts are rendered."""
    prompt = asked.prompt
    return isinstance(prompt, ChatPrompt) and any(
        not isinstance(part, Text) for message in prompt.messages for part in message.parts
    )


def _nth(asked: Generation, nth: int) -> Generation:
    return replace(asked, sampling=Deferred(lambda _: _seeded(asked.sampling(), nth))) if nth else asked


def _seeded(named: Overrides, nth: int) -> Overrides:
    seed = named.get("seed")
    return named if seed is None or seed < 0 else {**named, "seed": seed + nth}


def _turn(extra: Mapping[str, Json]) -> dict[str, Any]:
    later = lower_priority(extra)
    tier = extra.get("service_tier")
    return {
        "lower_priority": later,
        "service_tier": "" if tier is None else "flex" if tier == "flex" else "default",
    }


def _prompts(value: Json) -> list[str | list[int]]:
    """A text, or several; or the token ids of one, or of several. Nothing and an empty text are no prompt."""
    if value is None or value == "" or value == []:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if all(type(item) is int for item in value):
            return [value]
        if all(isinstance(item, str) for item in value):
            return value
        if all(isinstance(item, list) and item and all(type(each) is int for each in item) for item in value):
            return value
    raise InvalidRequest("prompt must be a string, a list of strings, or token ids")


def _prompted(wanted: Generation, prompt: str | list[int]) -> Generation:
    """Behind token ids comes whatever the model writes: no template says that it would reason first."""
    suffix = wanted.prompt.suffix if isinstance(wanted.prompt, CompletionPrompt) else ""
    if isinstance(prompt, str):
        return replace(wanted, prompt=CompletionPrompt(prompt, suffix=suffix, wants_context=False))
    if suffix:
        raise InvalidRequest("suffix is not supported with prompts of token ids")
    whole = CompletionPrompt(token_ids=tuple(prompt), raw=True, wants_context=False)
    return replace(wanted, prompt=whole, think=False)


def _go_type(value: Json) -> str:
    names = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}", type(None): "<nil>"}
    return names.get(type(value), "float64")
