"""What an answer repeats of its request, and the object that an answer is (docs/reference 14.4)."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import orjson

from app.api.openai.responses.schema import ResponsesBody
from app.api.wire import dumps
from app.core.request import Json

Echo: TypeAlias = Mapping[str, Any]
"""The keys of a response that are the same from its beginning to its end."""

_KEYS = (
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "incomplete_details",
    "model",
    "previous_response_id",
    "instructions",
    "output",
    "error",
    "tools",
    "tool_choice",
    "truncation",
    "parallel_tool_calls",
    "text",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "temperature",
    "reasoning",
    "usage",
    "max_output_tokens",
    "max_tool_calls",
    "store",
    "background",
    "service_tier",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
)
_SORTED_KEYS = tuple(sorted(_KEYS))


def echo_of(asked: ResponsesBody, temperature: float) -> Echo:
    """What is large or nested is written once, in the order in which it came."""
    return {
        "object": "response",
        "model": asked.model,
        "previous_response_id": None,
        "instructions": asked.instructions,
        "tools": _written(asked.tools),
        "tool_choice": "auto" if asked.tool_choice is None else _written(asked.tool_choice),
        "truncation": asked.truncation or "disabled",
        "parallel_tool_calls": asked.parallel_tool_calls,
        "text": _written(_text(asked)),
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": asked.top_logprobs,
        "temperature": temperature,
        "reasoning": _reasoning(asked),
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": asked.max_tool_calls,
        "store": False,
        "background": False,
        "service_tier": "flex" if asked.service_tier == "flex" else "default",
        "metadata": _written(asked.metadata),
        "safety_identifier": asked.safety_identifier,
        "prompt_cache_key": asked.prompt_cache_key,
    }


def response_object(echo: Echo, changing: Mapping[str, Any], *, by_name: bool) -> dict[str, Any]:
    """A response; `changing` are the keys that `echo` has not. Events have their keys by name."""
    values = {**echo, **changing}
    return {key: values[key] for key in (_SORTED_KEYS if by_name else _KEYS)}


def _written(value: Json) -> orjson.Fragment:
    return orjson.Fragment(dumps(value))


def _text(asked: ResponsesBody) -> dict[str, Json]:
    wanted = asked.text.format
    told: dict[str, Json] = {"format": {"type": "text"}}
    if wanted is not None and wanted.type:
        fields = {"name": wanted.name, "description": wanted.description, "schema": wanted.schema}
        kept = {key: value for key, value in fields.items() if value}
        strict = {"strict": wanted.strict} if wanted.schema is not None else {}
        told = {"format": {"type": wanted.type, **kept, **strict}}
    return {**told, **({"verbosity": asked.text.verbosity} if asked.text.verbosity else {})}


def _reasoning(asked: ResponsesBody) -> dict[str, Json] | None:
    wanted = asked.reasoning
    if wanted is None:
        return None
    summary = wanted.summary or wanted.generate_summary
    return {"effort": wanted.effort or None, "summary": summary or None}
