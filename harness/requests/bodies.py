"""Bodies that no client should send: requests that are wrong somewhere, any other JSON, and broken JSON."""

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

from hypothesis import strategies as st

Strategy: TypeAlias = st.SearchStrategy[Any]
Path: TypeAlias = tuple[str | int, ...]

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
    max_leaves=8,
)
MODELS: Strategy = st.sampled_from(["all", "all", "ALL:latest", " all ", "plain", "emb", "nosuch", "x:cloud"])
DURATIONS: Strategy = st.sampled_from([None, 0, -1, 300, 1.5, "5m", "0s", "-1s", 1e300])
FLAGS: Strategy = st.sampled_from([True, False, None])

INTEGERS = ("num_ctx", "num_predict", "seed", "top_k", "repeat_last_n", "num_keep", "num_gpu")
FLOATS = ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty")


def some(**fields: Strategy) -> Strategy:
    """An object with any of these keys."""
    return st.fixed_dictionaries({}, optional=fields)


OPTIONS: Strategy = some(
    **dict.fromkeys(INTEGERS, st.integers(-(2**63), 2**63 - 1)),
    **dict.fromkeys(FLOATS, st.floats(-3e38, 3e38)),
    use_mmap=FLAGS,
    stop=st.lists(TEXTS, max_size=3),
    nope=TEXTS,
)
IMAGES: Strategy = st.lists(st.just("aGk="), max_size=2)
SCHEMAS: Strategy = some(
    type=st.sampled_from(["object", "string", "array", "integer"]),
    properties=st.dictionaries(TEXTS, st.just({"type": "string"}), max_size=3),
    required=st.lists(TEXTS, max_size=2),
    enum=st.lists(TEXTS, max_size=3),
)
TOOLS: Strategy = some(
    type=st.just("function"), function=some(name=TEXTS, description=TEXTS, parameters=SCHEMAS)
)
CALLS: Strategy = some(
    id=TEXTS, function=some(name=TEXTS, arguments=st.dictionaries(TEXTS, ANYTHING, max_size=2))
)
MESSAGES: Strategy = some(
    role=st.sampled_from(["user", "system", "assistant", "tool", "USER", ""]),
    content=TEXTS,
    thinking=TEXTS,
    images=IMAGES,
    tool_calls=st.lists(CALLS, max_size=2),
    tool_name=TEXTS,
    tool_call_id=TEXTS,
)
TEMPLATES: Strategy = st.sampled_from(
    ["", "{{ .Prompt }}", "{{ .Bad", "{{ range .Messages }}{{ .Role }}{{ end }}", "{{ index .Messages 9 }}"]
)
ANSWERING: dict[str, Strategy] = {
    "stream": FLAGS,
    "format": st.one_of(st.sampled_from([None, "", "json"]), SCHEMAS),
    "options": OPTIONS,
    "think": st.sampled_from([None, True, False, "low", "high"]),
    "truncate": FLAGS,
    "shift": FLAGS,
    "logprobs": FLAGS,
    "top_logprobs": st.integers(0, 20),
    "_debug_render_only": FLAGS,
    "system": TEXTS,
}

FIELDS: dict[str, dict[str, Strategy]] = {
    "/api/chat": ANSWERING
    | {"messages": st.lists(MESSAGES, max_size=3), "tools": st.lists(TOOLS, max_size=2)},
    "/api/generate": ANSWERING
    | {
        "prompt": TEXTS,
        "suffix": TEXTS,
        "template": st.one_of(TEMPLATES, TEXTS),
        "context": st.one_of(st.none(), st.just([]), st.lists(st.integers(-1, 99), max_size=4)),
        "raw": FLAGS,
        "images": IMAGES,
    },
    "/api/embed": {
        "input": st.one_of(st.none(), TEXTS, st.lists(TEXTS, max_size=3)),
        "truncate": FLAGS,
        "dimensions": st.integers(-1, 40),
        "options": OPTIONS,
    },
    "/api/embeddings": {"prompt": TEXTS, "options": OPTIONS},
    "/api/show": {
        "name": MODELS,
        "verbose": FLAGS,
        "system": TEXTS,
        "options": st.dictionaries(TEXTS, ANYTHING, max_size=3),
        "template": TEXTS,
    },
}
"""What each native route reads, save for `model` and `keep_alive`."""


def requests(route: str, models: Strategy = MODELS, keep_alive: Strategy = DURATIONS) -> Strategy:
    """Requests as they should be, requests with one value of any other kind, and any other JSON."""
    fields = {**FIELDS[route], "keep_alive": keep_alive}
    return near(st.builds(lambda model, rest: {**rest, "model": model}, models, some(**fields)))


def near(good: Strategy) -> Strategy:
    """Requests as they should be, requests with one value of any other kind, and any other JSON."""
    return st.one_of(good, st.builds(_spoil, good, st.integers(0, 10**6), ANYTHING), ANYTHING)


def encoded(values: Strategy) -> st.SearchStrategy[bytes]:
    """JSON text; lone surrogates are written as escapes or, in UTF-8 that is not valid, as bytes."""
    return st.builds(_encode, values, st.booleans())


def broken(values: Strategy) -> st.SearchStrategy[bytes]:
    """JSON text with a piece replaced by other bytes."""
    pieces = st.one_of(
        st.binary(max_size=3), st.sampled_from([b"[" * 300, b"{", b'"', b"\\u", b"\xff", b"e9"])
    )
    return st.builds(_damage, encoded(values), st.integers(0), st.integers(0, 5), pieces)


def tamed(value: Any) -> Any:
    """The same request, made to end soon."""
    if isinstance(value, dict) and isinstance(value.get("options", {}), dict):
        return {**value, "options": {**value.get("options", {}), "num_predict": 2}}
    return value


def _spoil(value: Any, at: int, wrong: Any) -> Any:
    """`value` with `wrong` in one place, anywhere within."""
    places = list(_places(value))
    return _replaced(value, places[at % len(places)], wrong)


def _places(value: Any) -> Iterator[Path]:
    yield ()
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from ((key, *path) for path in _places(item))


def _replaced(value: Any, place: Path, wrong: Any) -> Any:
    if not place:
        return wrong
    copy = value.copy()
    copy[place[0]] = _replaced(value[place[0]], place[1:], wrong)
    return copy


def _encode(value: Any, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def _damage(text: bytes, at: int, length: int, piece: bytes) -> bytes:
    at %= len(text) + 1
    return text[:at] + piece + text[at + length :]
