"""Whatever the body of a request for a response holds, it is read or refused."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.openai.responses import items, schema
from app.api.openai.responses.codec import to_compaction, to_response
from app.core.errors import InvalidRequest

WORDS = (
    *items._READERS,  # pyright: ignore[reportPrivateUsage]
    *(
        "function",
        "custom",
        "namespace",
        "tool_search",
        "local_shell",
        "web_search",
        "allowed_tools",
        "client",
    ),
    *("auto", "none", "required", "grammar", "lark", "json_schema", "text", "user", "developer", "assistant"),
    *("input_text", "input_image", "data:;base64,AAAA", "data:;base64,A", "{}", "[1]", "{", "a"),
)
NAMES = sorted(
    {
        *("model", "input", "tools", "tool_choice", "text", "reasoning", "type", "role", "content", "name"),
        *("namespace", "call_id", "id", "arguments", "output", "encrypted_content", "summary", "action"),
        *("command", "parameters", "properties", "format", "syntax", "definition", "execution", "effort"),
        *("schema", "mode", "image_url", "Input", "retained", "version", "think", "include"),
    }
)
PAYLOAD = st.builds(
    lambda retained: json.dumps(
        {"type": "ollama_compaction", "version": 1, "summary": "s", "retained": retained}
    ),
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "tool", "assistant"]), "content": st.sampled_from(["", "x"])},
            optional={
                "thinking": st.just("t"),
                "tool_call_id": st.just("c"),
                "tool_calls": st.lists(
                    st.fixed_dictionaries({"function": st.just({"name": "f", "arguments": {}})}), max_size=2
                ),
            },
        ),
        max_size=3,
    ),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 10**19), st.floats(-2, 2), st.sampled_from(WORDS), PAYLOAD
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=25,
)
ITEMS = st.lists(
    st.builds(
        lambda kind, rest: {**rest, "type": kind},
        st.sampled_from(WORDS),
        st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6),
    ),
    max_size=5,
)
BODIES = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        **dict.fromkeys(["input", "tools"], ITEMS | VALUES),
        **dict.fromkeys(["tool_choice", "text", "reasoning", "include", "metadata", "instructions"], VALUES),
        "stream": st.booleans(),
    },
)


def sampled(read: Any, body: bytes) -> Any:
    try:
        return read(body, 0).generation.sampling()
    except InvalidRequest as error:
        return str(error)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BODIES)
def test_any_body_is_read_or_refused(body: dict[str, Any]) -> None:
    written = json.dumps(body).encode()
    for read in (to_response, to_compaction):
        assert sampled(read, written) == sampled(read, written) != ""


def test_every_field_of_the_schema_has_a_default() -> None:
    assert schema.RESPONSES.read({}) == schema.ResponsesBody()
    assert schema.COMPACT.read({}) == schema.CompactBody()
