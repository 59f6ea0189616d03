"""How tokens are drawn, as OpenAI's requests say it; what they leave out is as in docs/reference 13."""

from collections.abc import Mapping
from typing import Any

from app.api.openai.extras import read_bool, read_int, read_number, read_share
from app.api.openai.schema import ChatBody, CompletionBody
from app.core.errors import InvalidRequest
from app.core.limits import InputLimits, refuse_over
from app.core.request import Json, Overrides

_MOST_TOKENS = (1 << 31) - 1
_MOST_BIAS = 100


def read_sampling(asked: ChatBody | CompletionBody, limits: InputLimits) -> Overrides:
    """The sampling that a request names. `temperature` and `top_p` are 1 where it leaves them out.

    Raises:
        InvalidRequest: for a value of the wrong kind.
    """
    extra = asked.extra
    named: dict[str, Any] = {
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "seed": asked.seed,
        "frequency_penalty": asked.frequency_penalty,
        "presence_penalty": asked.presence_penalty,
        "num_predict": _most_tokens(asked),
        "top_k": read_int(extra, "top_k", least=-1, most=_MOST_TOKENS),
        "min_p": read_share(extra, "min_p"),
        "repeat_penalty": read_number(extra, "repetition_penalty"),
        "min_tokens": read_int(extra, "min_tokens", least=0, most=_MOST_TOKENS),
        "ignore_eos": read_bool(extra, "ignore_eos", default=False) or None,
        "stop_token_ids": _stop_token_ids(extra.get("stop_token_ids"), limits),
        "logit_bias": _logit_bias(extra.get("logit_bias"), limits),
    }
    if named["repeat_penalty"] is not None:
        named["repeat_last_n"] = -1  # vLLM's penalty, by whose name it came, is of the whole text.
    return {name: value for name, value in named.items() if value is not None}


def _most_tokens(asked: ChatBody | CompletionBody) -> int | None:
    named = read_int(asked.extra, "max_completion_tokens", least=1, most=_MOST_TOKENS)
    return asked.max_tokens if named is None else named


def _stop_token_ids(value: Json, limits: InputLimits) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise InvalidRequest("stop_token_ids must be a list of token ids")
    refuse_over("stop_token_ids", limits.stop_tokens, len(value))
    return tuple(value)


def _logit_bias(value: Json, limits: InputLimits) -> Mapping[int, float] | None:
    """A map from token id, as text, to what is added to its logit, from -100 to 100."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidRequest("logit_bias must be an object")
    refuse_over("logit_bias", limits.logit_bias, len(value))
    found: dict[int, float] = {}
    for token, bias in value.items():
        if not (token.isascii() and token.isdecimal() and len(token) <= 9):
            raise InvalidRequest("logit_bias: its keys must be token ids")
        if type(bias) not in (int, float) or not -_MOST_BIAS <= bias <= _MOST_BIAS:
            raise InvalidRequest(f"logit_bias: its values must be numbers from -{_MOST_BIAS} to {_MOST_BIAS}")
        found[int(token)] = float(bias)
    return found
