"""What requests may hold beyond Ollama's part of OpenAI's API: honoured, refused or without effect.

OpenAI's own fields come first, then what vLLM's server takes besides. docs/openai.md is the table for
readers, with the reasons.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.errors import InvalidRequest
from app.core.request import Json
from app.golang.quote import quoted

HONOURED = (
    "n",
    "logit_bias",
    "max_completion_tokens",
    "service_tier",
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
    "truncate_prompt_tokens",
    "priority",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "structured_outputs",
)
"""On both routes; read in `sampling.py` and `constraints.py`."""

CHAT_HONOURED = (
    "tool_choice",
    "parallel_tool_calls",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
)
COMPLETION_HONOURED = ("best_of", "echo")


@dataclass(frozen=True, slots=True)
class Refused:
    """A field of which only some values are taken, those that change nothing; `why` is told for others."""

    neutral: tuple[Any, ...]
    why: str


_NO_ENGINE = "the engine does not do this"
_NOT_HERE = "is not supported by this server"

REFUSED: Mapping[str, Refused] = {
    "audio": Refused((), "models of this server do not speak"),
    "modalities": Refused((["text"], []), "models of this server write text alone"),
    "functions": Refused(([],), "use tools"),
    "function_call": Refused(("none", "auto"), "use tool_choice"),
    "web_search_options": Refused((), "this server has no web search"),
    "datai": Refused(
        ({},), "built-in tools are asked for on /api, or as web_search on /v1/responses and /v1/messages"
    ),
    "moderation": Refused((), "nothing that is asked or answered here is moderated"),
    "verbosity": Refused(("medium",), "models of this server have no such setting"),
    "use_beam_search": Refused((False,), _NO_ENGINE),
    "length_penalty": Refused((1, 1.0), "it belongs to beam search"),
    "prompt_logprobs": Refused((0,), _NOT_HERE),
    "allowed_token_ids": Refused(([],), _NOT_HERE),
    "bad_words": Refused(([],), _NOT_HERE),
    "logits_processors": Refused(([],), _NOT_HERE),
    "guided_grammar": Refused(("",), "use guided_json, guided_regex or guided_choice"),
    "guided_whitespace_pattern": Refused(("",), "white space between tokens of JSON is bounded"),
    "structural_tag": Refused(("",), _NOT_HERE),
    "include_stop_str_in_output": Refused((False,), "a stop string is no part of the answer"),
    "skip_special_tokens": Refused((True,), _NOT_HERE),
    "spaces_between_special_tokens": Refused((True,), _NOT_HERE),
    "chat_template": Refused(("",), "templates are set with the model"),
    "documents": Refused(([],), _NOT_HERE),
    "mm_processor_kwargs": Refused(({},), _NOT_HERE),
    "return_tokens_as_token_ids": Refused((False,), _NOT_HERE),
    "return_token_ids": Refused((False,), _NOT_HERE),
    "thinking_token_budget": Refused((), "use reasoning_effort"),
    "kv_transfer_params": Refused((), _NOT_HERE),
    "vllm_xargs": Refused(({},), _NOT_HERE),
    "cache_salt": Refused(("",), "cached prompts are kept apart by the API key"),
    "prompt_embeds": Refused((), _NOT_HERE),
    "logprob_token_ids": Refused(([],), "use top_logprobs"),
    "truncation_side": Refused(("left",), "the last tokens of a prompt are kept"),
    "watermarking": Refused((False,), _NOT_HERE),
    "repetition_detection": Refused(({},), _NOT_HERE),
    "media_io_kwargs": Refused(({},), _NOT_HERE),
    "mm_payload": Refused((), _NOT_HERE),
    "return_mm_kwargs": Refused((False,), _NOT_HERE),
    "return_token_offsets": Refused((False,), _NOT_HERE),
    "return_prompt_text": Refused((False,), "use _debug_render_only"),
    "routed_experts_prompt_start": Refused((0,), _NOT_HERE),
    "ec_transfer_params": Refused((), _NOT_HERE),
}

NO_OPS: Mapping[str, str] = {
    "user": "keys say who asks",
    "safety_identifier": "keys say who asks",
    "metadata": "nothing is stored",
    "store": "nothing is stored",
    "prediction": "it would only be faster",
    "prompt_cache_key": "a prompt's beginning is cached whenever it is the same",
    "prompt_cache_retention": "the engine decides",
    "prompt_cache_options": "a prompt's beginning is cached whenever it is the same",
    "request_id": "the header X-Request-Id is used",
    "guided_decoding_backend": "there is one",
    "session_id": "a prompt's beginning is cached whenever it is the same",
    "stream_interval": "a chunk has what the engine has ready",
    "add_special_tokens": "the template decides",
    "include_reasoning": "reasoning is a field of its own, which a client need not read",
}
"""What changes nothing that a client could tell from the answer, or that it has no right to expect."""

IGNORED_BY_OLLAMA = ("keep_alive", "options", "think", "format")
"""Fields of Ollama's own API, which it does not read on these routes either; without effect here too."""

_COMMON = (*HONOURED, *REFUSED, *NO_OPS)
CHAT_REFUSED: Mapping[str, Refused] = {
    "echo": Refused((False,), "continue_final_message goes on with the last message"),
}
"""Those of chat alone: by this name completions have a field that they honour."""
CHAT_EXTRAS = (*_COMMON, *CHAT_HONOURED, *CHAT_REFUSED)
COMPLETION_EXTRAS = (*_COMMON, *COMPLETION_HONOURED)
EMBEDDING_EXTRAS = ("priority", "truncate_prompt_tokens", "add_special_tokens", "user")


def refuse_unsupported(extra: Mapping[str, Json], rows: Mapping[str, Refused] = REFUSED) -> None:
    """Refuse what cannot be honoured by `rows`, unless its value asks for nothing.

    Raises:
        InvalidRequest: naming the field, with the reason.
    """
    for name, value in extra.items():
        row = rows.get(name)
        if row is not None and not any(type(value) is type(one) and value == one for one in row.neutral):
            raise InvalidRequest(f"{name}: {row.why}")


def read_bool(extra: Mapping[str, Json], name: str, *, default: bool) -> bool:
    value = extra.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be a boolean")
    return value


def read_int(
    extra: Mapping[str, Json], name: str, *, least: int, most: int, default: int | None = None
) -> int | None:
    """An integer from `least` to `most`."""
    value = extra.get(name)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise InvalidRequest(f"{name} must be an integer from {least} to {most}")
    return value


def read_share(extra: Mapping[str, Json], name: str) -> float | None:
    """A number from 0 to 1."""
    value = read_number(extra, name)
    if value is not None and not 0 <= value <= 1:
        raise InvalidRequest(f"{name} must be from 0 to 1")
    return value


def read_number(extra: Mapping[str, Json], name: str) -> float | None:
    value = extra.get(name)
    if value is None:
        return None
    if type(value) not in (int, float):
        raise InvalidRequest(f"{name} must be a number")
    return float(value)


def wrong_value(name: str, value: Json, wanted: str) -> InvalidRequest:
    shown = quoted(value) if isinstance(value, str) else "this value"
    return InvalidRequest(f"{name}: {shown} is not supported; use {wanted}")
