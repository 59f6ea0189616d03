"""Bodies of OpenAI's and Anthropic's APIs that no client should send, as `bodies.py` has them of Ollama's."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from harness.requests.bodies import (
    ANYTHING,
    FLAGS,
    MODELS,
    NUMBERS,
    SCHEMAS,
    TEXTS,
    TOOLS,
    Strategy,
    near,
    some,
)

_PIXEL = "data:image/png;base64,aGk="
_WORDS: Strategy = st.sampled_from(["none", "auto", "required", "any", "low", "high", "nope", ""])
_ARGUMENTS: Strategy = st.one_of(TEXTS, st.sampled_from(["{}", '{"a": 1}', "[]", "{"]))
_FEW: Strategy = st.integers(-1, 3)
_SMALL_FLOATS: Strategy = st.one_of(st.none(), st.floats(-1, 3))

_PARTS: Strategy = some(
    type=st.sampled_from(["text", "image_url", "input_audio", "input_text", "output_text", "nope"]),
    text=TEXTS,
    image_url=st.one_of(st.sampled_from([_PIXEL, "http://127.0.0.1/x.png"]), some(url=st.just(_PIXEL))),
)
_CALLS: Strategy = some(
    id=TEXTS, type=st.just("function"), function=some(name=TEXTS, arguments=_ARGUMENTS), index=_FEW
)
_MESSAGES: Strategy = some(
    role=st.sampled_from(["user", "system", "developer", "assistant", "tool", ""]),
    content=st.one_of(st.none(), TEXTS, st.lists(_PARTS, max_size=3)),
    reasoning=TEXTS,
    tool_calls=st.lists(_CALLS, max_size=2),
    tool_call_id=TEXTS,
    name=TEXTS,
)
_FORMATS: Strategy = some(
    type=st.sampled_from(["text", "json_object", "json_schema", "grammar"]),
    json_schema=some(name=TEXTS, schema=SCHEMAS, strict=FLAGS),
    name=TEXTS,
    schema=SCHEMAS,
)
_CHOICES: Strategy = st.one_of(
    _WORDS,
    some(type=st.sampled_from(["function", "tool", "auto", "custom"]), name=TEXTS, function=some(name=TEXTS)),
)
_ANSWERING: Mapping[str, Strategy] = {
    "stream": FLAGS,
    "stream_options": some(include_usage=FLAGS),
    "max_tokens": _FEW,
    "temperature": _SMALL_FLOATS,
    "top_p": _SMALL_FLOATS,
    "seed": NUMBERS,
    "frequency_penalty": _SMALL_FLOATS,
    "presence_penalty": _SMALL_FLOATS,
    "stop": st.one_of(TEXTS, st.lists(TEXTS, max_size=3)),
    "n": _FEW,
    "logit_bias": st.dictionaries(st.sampled_from(["1", "-1", "x", "99999999"]), NUMBERS, max_size=2),
    "user": TEXTS,
    "service_tier": _WORDS,
    "top_k": _FEW,
    "min_p": _SMALL_FLOATS,
    "repetition_penalty": _SMALL_FLOATS,
    "min_tokens": _FEW,
    "ignore_eos": FLAGS,
    "stop_token_ids": st.lists(st.integers(-1, 2**40), max_size=2),
    "truncate_prompt_tokens": _FEW,
    "guided_json": SCHEMAS,
    "guided_choice": st.lists(TEXTS, max_size=2),
}
_ITEMS: Strategy = some(
    type=st.sampled_from(
        [
            "message",
            "reasoning",
            "function_call",
            "function_call_output",
            "custom_tool_call",
            "compaction",
            "nope",
        ]
    ),
    role=st.sampled_from(["user", "system", "developer", "assistant"]),
    content=st.one_of(TEXTS, st.lists(_PARTS, max_size=2)),
    call_id=TEXTS,
    name=TEXTS,
    arguments=_ARGUMENTS,
    output=st.one_of(TEXTS, st.lists(_PARTS, max_size=1)),
    summary=st.lists(_PARTS, max_size=1),
    encrypted_content=TEXTS,
)
_ITEM_TOOLS: Strategy = some(
    type=st.sampled_from(["function", "custom", "namespace", "web_search", "local_shell"]),
    name=TEXTS,
    description=TEXTS,
    parameters=SCHEMAS,
    tools=st.lists(some(type=st.just("function"), name=TEXTS), max_size=1),
)
_RESPONDING: Mapping[str, Strategy] = {
    "input": st.one_of(TEXTS, st.lists(_ITEMS, max_size=4)),
    "instructions": TEXTS,
    "tools": st.lists(_ITEM_TOOLS, max_size=2),
}
_BLOCKS: Strategy = some(
    type=st.sampled_from(["text", "image", "tool_use", "tool_result", "thinking", "document", "nope"]),
    text=TEXTS,
    thinking=TEXTS,
    source=some(type=st.sampled_from(["base64", "url", "text"]), media_type=TEXTS, data=st.just("aGk=")),
    id=TEXTS,
    name=TEXTS,
    input=st.dictionaries(TEXTS, ANYTHING, max_size=2),
    tool_use_id=TEXTS,
    content=TEXTS,
    is_error=FLAGS,
    cache_control=some(type=st.just("ephemeral")),
)
_TURNS: Mapping[str, Strategy] = {
    "messages": st.lists(
        some(
            role=st.sampled_from(["user", "assistant", "system", "USER"]),
            content=st.one_of(TEXTS, st.lists(_BLOCKS, max_size=3)),
        ),
        max_size=3,
    ),
    "system": st.one_of(TEXTS, st.lists(_BLOCKS, max_size=2)),
    "max_tokens": _FEW,
    "tools": st.lists(some(type=TEXTS, name=TEXTS, description=TEXTS, input_schema=SCHEMAS), max_size=2),
    "tool_choice": _CHOICES,
    "thinking": some(type=st.sampled_from(["enabled", "disabled", "adaptive"]), budget_tokens=NUMBERS),
    "output_config": some(effort=_WORDS, format=_FORMATS),
    "stop_sequences": st.lists(TEXTS, max_size=3),
    "temperature": _SMALL_FLOATS,
    "top_k": _FEW,
    "metadata": some(user_id=TEXTS),
}
API_FIELDS: Mapping[str, Mapping[str, Strategy]] = {
    "/v1/chat/completions": {
        **_ANSWERING,
        "messages": st.lists(_MESSAGES, max_size=3),
        "tools": st.lists(TOOLS, max_size=2),
        "tool_choice": _CHOICES,
        "parallel_tool_calls": FLAGS,
        "response_format": _FORMATS,
        "reasoning_effort": _WORDS,
        "logprobs": FLAGS,
        "top_logprobs": st.integers(-1, 21),
        "max_completion_tokens": _FEW,
    },
    "/v1/completions": {
        **_ANSWERING,
        "prompt": st.one_of(TEXTS, st.lists(TEXTS, max_size=2), st.lists(st.integers(-1, 99), max_size=3)),
        "suffix": TEXTS,
        "echo": FLAGS,
        "best_of": _FEW,
        "logprobs": _FEW,
    },
    "/v1/embeddings": {
        "input": st.one_of(TEXTS, st.lists(TEXTS, max_size=3)),
        "dimensions": st.integers(-1, 40),
        "encoding_format": st.sampled_from(["float", "base64", "nope"]),
    },
    "/v1/responses": {
        **_RESPONDING,
        "stream": FLAGS,
        "max_output_tokens": _FEW,
        "tool_choice": _CHOICES,
        "text": some(format=_FORMATS, verbosity=_WORDS),
        "reasoning": some(effort=_WORDS, summary=TEXTS),
        "include": st.lists(TEXTS, max_size=1),
        "truncation": _WORDS,
        "top_logprobs": st.integers(-1, 21),
        "previous_response_id": TEXTS,
        "store": FLAGS,
        "metadata": st.dictionaries(TEXTS, ANYTHING, max_size=2),
    },
    "/v1/responses/compact": _RESPONDING,
    "/v1/messages": {**_TURNS, "stream": FLAGS},
    "/v1/messages/count_tokens": _TURNS,
}
"""What each route reads, save for `model`."""
_LIMITS = ("max_tokens", "max_output_tokens")


def api_requests(route: str, models: Strategy = MODELS) -> Strategy:
    """As `bodies.requests`, for a route of `API_FIELDS`."""
    fields = dict(API_FIELDS[route])
    return near(st.builds(lambda model, rest: {**rest, "model": model}, models, some(**fields)))


def api_tamed(value: Any) -> Any:
    """The same request, made to end soon, unless its limit is wrong anyhow."""
    if not isinstance(value, dict):
        return value
    return {**value, **{name: 2 for name in _LIMITS if name not in value}}
