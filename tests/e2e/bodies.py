"""Bodies that no client should send: any JSON under the names that requests know, and broken JSON."""

import json
from typing import Any, TypeAlias

from hypothesis import strategies as st

Strategy: TypeAlias = st.SearchStrategy[Any]

NUMBERS: Strategy = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40, 1e308, -1e308, 5e-324]),
)
TEXTS: Strategy = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", " ", "\0", "json", "high", "5m", "-1", "aGk=", "user", "assistant", "tool", "🧀"]),
    st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2),
)
ANYTHING: Strategy = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
MODELS: Strategy = st.sampled_from(["all", "plain", "emb", "ALL:latest", " all ", "nosuch", "x:cloud", "a b"])
DURATIONS: Strategy = st.sampled_from([None, 0, -1, 300, 1.5, "5m", "0s", "-1s", "abc", 1e300])

OPTION_NAMES = (
    "num_ctx",
    "num_predict",
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "num_keep",
    "use_mmap",
)


def mostly(valid: Strategy) -> Strategy:
    """What belongs there, three times out of four."""
    return st.one_of(valid, valid, valid, ANYTHING)


def some(**fields: Strategy) -> Strategy:
    """An object with any of these keys, and now and then one that nobody knows."""
    known = st.fixed_dictionaries({}, optional=fields)
    return st.builds(lambda a, b: {**a, **b}, known, st.dictionaries(TEXTS, ANYTHING, max_size=1))


OPTIONS: Strategy = some(
    **{name: mostly(NUMBERS) for name in OPTION_NAMES}, stop=mostly(st.lists(TEXTS, max_size=3))
)
IMAGES: Strategy = st.lists(mostly(st.just("aGk=")), max_size=2)
SCHEMAS: Strategy = some(
    type=mostly(st.sampled_from(["object", "string", "array", "integer"])),
    properties=mostly(st.dictionaries(TEXTS, st.just({"type": "string"}), max_size=3)),
    required=mostly(st.lists(TEXTS, max_size=2)),
    enum=mostly(st.lists(TEXTS, max_size=3)),
    items=ANYTHING,
)
TOOLS: Strategy = some(
    type=mostly(st.just("function")),
    function=mostly(some(name=mostly(TEXTS), description=mostly(TEXTS), parameters=mostly(SCHEMAS))),
)
CALLS: Strategy = some(
    id=mostly(TEXTS),
    function=mostly(some(name=mostly(TEXTS), arguments=mostly(st.dictionaries(TEXTS, ANYTHING, max_size=2)))),
)
MESSAGES: Strategy = some(
    role=mostly(st.sampled_from(["user", "system", "assistant", "tool", "USER", ""])),
    content=mostly(TEXTS),
    thinking=mostly(TEXTS),
    images=mostly(IMAGES),
    tool_calls=mostly(st.lists(mostly(CALLS), max_size=2)),
    tool_name=mostly(TEXTS),
    tool_call_id=mostly(TEXTS),
)
ANSWERING: dict[str, Strategy] = {
    "stream": mostly(st.booleans()),
    "format": mostly(st.one_of(st.sampled_from([None, "", "json"]), SCHEMAS)),
    "options": mostly(OPTIONS),
    "think": mostly(st.sampled_from([None, True, False, "low", "high"])),
    "truncate": mostly(st.booleans()),
    "shift": mostly(st.booleans()),
    "logprobs": mostly(st.booleans()),
    "top_logprobs": mostly(st.integers(-1, 21)),
    "_debug_render_only": mostly(st.booleans()),
}
SYSTEM: dict[str, Strategy] = {"system": mostly(TEXTS)}

FIELDS: dict[str, dict[str, Strategy]] = {
    "/api/chat": ANSWERING
    | SYSTEM
    | {
        "messages": mostly(st.lists(mostly(MESSAGES), max_size=3)),
        "tools": mostly(st.lists(mostly(TOOLS), max_size=2)),
    },
    "/api/generate": ANSWERING
    | SYSTEM
    | {
        "prompt": mostly(TEXTS),
        "suffix": mostly(TEXTS),
        "template": mostly(
            st.one_of(
                TEXTS,
                st.sampled_from(["{{ .Prompt }}", "{{ .Bad", "{{ range .Messages }}{{ .Role }}{{ end }}"]),
            )
        ),
        "context": mostly(st.lists(st.integers(-1, 99), max_size=4)),
        "raw": mostly(st.booleans()),
        "images": mostly(IMAGES),
    },
    "/api/embed": {
        "input": mostly(st.one_of(TEXTS, st.lists(TEXTS, max_size=3))),
        "truncate": mostly(st.booleans()),
        "dimensions": mostly(st.integers(-1, 40)),
        "options": mostly(OPTIONS),
    },
    "/api/embeddings": {"prompt": mostly(TEXTS), "options": mostly(OPTIONS)},
    "/api/show": SYSTEM
    | {
        "name": mostly(MODELS),
        "verbose": mostly(st.booleans()),
        "options": mostly(OPTIONS),
        "template": mostly(TEXTS),
    },
}
"""What each native route reads, save for `model` and `keep_alive`."""


def requests(route: str, models: Strategy = MODELS, keep_alive: Strategy = DURATIONS) -> Strategy:
    """JSON values for this route, most of them objects with keys that it knows."""
    fields = FIELDS[route] | {"keep_alive": mostly(keep_alive)}
    return mostly(st.builds(lambda model, rest: {**rest, "model": model}, mostly(models), some(**fields)))


def encoded(values: Strategy) -> st.SearchStrategy[bytes]:
    """JSON text; lone surrogates are written as escapes or, in UTF-8 that is not valid, as bytes."""
    return st.builds(_encode, values, st.booleans())


def broken(values: Strategy) -> st.SearchStrategy[bytes]:
    """JSON text with a piece replaced by other bytes."""
    pieces = st.one_of(
        st.binary(max_size=3), st.sampled_from([b"[" * 300, b"{", b'"', b"\\u", b"\xff", b"e9"])
    )
    return st.builds(_damage, encoded(values), st.integers(0), st.integers(0, 5), pieces)


def _encode(value: Any, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def _damage(text: bytes, at: int, length: int, piece: bytes) -> bytes:
    at %= len(text) + 1
    return text[:at] + piece + text[at + length :]
