"""route.lua: the model that a body names, found as the server finds it, and what is hashed of it (C7)."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lupa.luajit21 import LuaRuntime

from app.api.ollama import codec
from app.catalogue.library import read_reference
from app.core.errors import AppError
from tests.gateway.envoy import CHART

MODELS = {"qwen3": "q", "smollm2:135m": "s", "Hub.co/Org/Model:Q4": "h", "ns/model": "n"}
Route = Callable[[bytes], Any]


def script(*, affinity: bool = True) -> Route:
    runtime: Any = LuaRuntime  # its stub leaves parameters out
    lua = runtime(encoding=None)
    names = "".join(f"[{json.dumps(name)}] = {json.dumps(slug)}," for name, slug in MODELS.items())
    source = f"MODELS = {{{names}}} AFFINITY = {json.dumps(affinity)}\n"
    lua.execute((source + (CHART / "files" / "route.lua").read_text()).encode())
    return lua.globals()[b"route"]


ROUTE = script()


def workload(body: bytes | dict[str, Any]) -> str | None:
    found = ROUTE(body if isinstance(body, bytes) else json.dumps(body).encode())
    name = found[0] if isinstance(found, tuple) else found
    return None if name is None else name.decode()


def hashed(body: dict[str, Any]) -> bytes | None:
    found = ROUTE(json.dumps(body).encode())
    return found[1] if isinstance(found, tuple) else None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3", "q"),
        ("qwen3:latest", "q"),
        ("QWEN3", "q"),
        (" qwen3 ", "q"),
        ("qwen3:local", "q"),
        ("library/qwen3", "q"),
        ("registry.ollama.ai/library/qwen3:latest", "q"),
        ("https://registry.ollama.ai/library/qwen3", "q"),
        ("qwen3:8b", None),
        ("smollm2", None),
        ("smollm2:135M", "s"),
        ("hub.co/org/model:q4", "h"),
        ("hub.co/org/model", None),
        ("ns/model", "n"),
        ("model", None),
        ("", None),
    ],
)
def test_names_are_compared_as_the_servers_compare_them(name: str, expected: str | None) -> None:
    assert workload({"model": name}) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"MODEL": "qwen3"}', "q"),
        (b'{"mod\\u0065l": "qwen\\u0033"}', "q"),
        (b'{"model": "ns\\/model"}', "n"),
        (b'{"Model": "x", "MODEL": "qwen3"}', "q"),
        (b'{"model": "qwen3", "Model": "x"}', "q"),
        (b'{"Model": "x", "model": "qwen3"}', "q"),
        (b'{"Model": "qwen3", "model": null}', None),
        (b'{"model": "qwen3", "model": "x"}', None),
        (b'{"model": "qwen3", "model": null}', "q"),
        (b'{"name": "qwen3"}', "q"),
        (b'{"model": "", "name": "qwen3"}', "q"),
        (b'{"model": "ns/model", "name": "qwen3"}', "n"),
        (b'{"messages": [{"model": "x", "content": "}{]["}], "model": "qwen3"}', "q"),
        (b'{"prompt": "\\"model\\": \\"x\\"", "model": "qwen3"} trailing', "q"),
        (b'{"stream": false, "n": -1.5e3 , "model":"qwen3"}', "q"),
        (b'\n\t {"model"\n:\t"qwen3"}', "q"),
        (b'{"model": ["qwen3"]}', None),
        (b'{"model": 3}', None),
        (b'{"other": {"model": "qwen3"}}', None),
        (b'["qwen3"]', None),
        (b'"qwen3"', None),
        (b'{"model": "qwen3"', None),
        (b'{"model": "qwen3', None),
        (b"{}", None),
        (b"", None),
        (b"\xff\xfe", None),
        (b'{"p": "\xff\xfe", "model": "qwen3"}', "q"),
    ],
)
def test_the_name_is_found_where_the_server_finds_it(body: bytes, expected: str | None) -> None:
    assert workload(body) == expected


KEYS = st.sampled_from(["model", "Model", "name", "NAME", "mod\\el", "messages", 'a"b', "x", ""])
NAMES = st.sampled_from(
    ["qwen3", "QWEN3:latest", "ns/model", "smollm2:135m", "nobody", "q\u00e9", "\U0001f600", ""]
)
VALUES = st.recursive(
    NAMES
    | st.text(max_size=8)
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
PAIRS = st.lists(st.tuples(KEYS, VALUES), max_size=6, unique_by=lambda pair: pair[0])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(PAIRS, st.booleans(), st.sampled_from(["", " ", "\n"]))
def test_it_reads_any_body_as_the_server_does(
    pairs: list[tuple[str, Any]], ascii_only: bool, space: str
) -> None:
    """Keys in any case, nested values, escapes: the same model, or nothing."""
    members = [
        f"{json.dumps(key)}{space}:{space}{json.dumps(value, ensure_ascii=ascii_only)}"
        for key, value in pairs
    ]
    body = (space + "{" + f"{space},{space}".join(members) + space + "}").encode()
    expected = as_the_server_finds_it(body)
    assert expected is None or workload(body) == expected
    if workload(body) is not None:
        assert expected or refused(body)


def refused(body: bytes) -> bool:
    try:
        codec.to_show(body)
    except AppError:
        return True
    return False


def as_the_server_finds_it(body: bytes) -> str | None:
    try:
        wanted = read_reference(codec.to_show(body).model).canonical.lower()
    except AppError:
        return None  # refused, whoever is asked
    known = {read_reference(name).canonical.lower(): slug for name, slug in MODELS.items()}
    return known.get(wanted)


USER, ANSWER, MORE = (
    {"role": role, "content": content}
    for role, content in (("user", "Hi"), ("assistant", "Yes?"), ("user", "Go on"))
)
SYSTEM = {"role": "system", "content": "Be brief."}


def test_all_turns_of_a_conversation_have_one_hash() -> None:
    first = hashed({"model": "qwen3", "messages": [SYSTEM, USER]})
    assert first
    assert hashed({"model": "qwen3", "messages": [SYSTEM, USER, ANSWER, MORE], "stream": False}) == first


def test_what_begins_otherwise_has_another_hash() -> None:
    other = {"role": "user", "content": "Hello"}
    bodies = [
        {"model": "qwen3", "messages": [SYSTEM, USER]},
        {"model": "qwen3", "messages": [USER]},
        {"model": "qwen3", "messages": [SYSTEM, other]},
        {"model": "ns/model", "messages": [SYSTEM, USER]},
        {"model": "qwen3", "messages": [SYSTEM, USER], "tools": [{"type": "function"}]},
        {"model": "qwen3", "prompt": "Hi"},
        {"model": "qwen3", "prompt": "Hi", "system": "Be brief."},
    ]
    assert len({hashed(body) for body in bodies}) == len(bodies)


@pytest.mark.parametrize("system", ["", "Be brief. " * 1000])
def test_conversations_are_told_apart_behind_any_instructions(system: str) -> None:
    told = [{"role": role, "content": system} for role in ("system", "developer") if system]
    bodies = [{"model": "qwen3", "messages": [*told, {"role": "user", "content": f"{n}"}]} for n in range(8)]
    assert len({hashed(body) for body in bodies}) == len(bodies)


def test_a_prompt_and_a_context_that_grow_keep_their_hash() -> None:
    prompt, context = "def f(): pass\n" * 100, list(range(1000))
    for field, shorter, longer in (("prompt", prompt, prompt + "more"), ("context", context, [*context, 7])):
        asked = {"model": "qwen3", field: shorter}
        assert hashed(asked) == hashed({**asked, field: longer})
    following = {"model": "qwen3", "context": context, "prompt": "A"}
    assert hashed(following) == hashed({**following, "prompt": "B"})


def test_large_images_cost_little() -> None:
    """32 MiB of base64, with its slashes escaped as some encoders do."""
    image = "iVBORw0KGgo\\/" * (32 * 2**20 // 13)
    body = f'{{"messages": [{{"role": "user", "images": ["{image}"]}}], "model": "qwen3"}}'.encode()
    begun = time.process_time()
    assert workload(body) == "q"
    assert time.process_time() - begun < 1


def test_what_has_no_beginning_to_be_cached_is_not_hashed() -> None:
    assert hashed({"model": "qwen3", "input": ["a", "b"]}) is None
    assert hashed({"model": "qwen3"}) is None
    assert script(affinity=False)(b'{"model":"qwen3","prompt":"Hi"}') in ((b"q", None), b"q")


def test_names_of_a_workload_share_what_is_cached() -> None:
    assert hashed({"model": "QWEN3:latest", "prompt": "Hi"}) == hashed({"model": "qwen3", "prompt": "Hi"})
