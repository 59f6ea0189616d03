"""route.lua: the model that a body names, found as the server finds it, and what is hashed of it (row C7)."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.ollama import codec
from app.catalogue.names import read_reference
from app.core.errors import AppError
from app.core.limits import DEFAULTS
from tests.gateway.lua_route import MODELS, ROUTE, hashed, runtime, script, workload


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


MIB = 2**20
BILLING = b"x-anthropic-billing-header: cch="
WATCH = """
local repeated, copied, most = 0, 0, 0
for _, name in ipairs({"find", "gsub", "match", "gmatch"}) do
  local original = string[name]
  string[name] = function(text, pattern, ...)
    local plain = name == "find" and select(2, ...)
    if not plain and (pattern:find("+", 1, true) or pattern:find("*", 1, true) or pattern:find("?", 1, true)
        or pattern:find("-", 1, true)) then
      repeated = math.max(repeated, #text)
    end
    return original(text, pattern, ...)
  end
end
local cut = string.sub
string.sub = function(...)
  local found = cut(...)
  copied, most = copied + #found, math.max(most, #found)
  return found
end
function begin() repeated, copied, most = 0, 0, 0 end
function longest_repeated() return repeated end
function all_copied() return copied end
function most_copied() return most end
"""
"""Notes how long texts are that patterns with a repetition look at, and what is copied."""


GROWING: dict[str, Callable[[int], bytes]] = {
    "spaces in a name": lambda n: b'{"model": "' + b" " * n + b'x"}',
    "spaces behind a name": lambda n: b'{"model": "x' + b" " * n + b'y"}',
    "colons in a name": lambda n: b'{"model": "' + b":" * n + b'/"}',
    "slashes in a name": lambda n: b'{"model": "' + b"a/" * (n // 2) + b'"}',
    "escapes in a name": lambda n: b'{"model": "' + rb"\u0020" * (n // 6) + b'"}',
    "backslashes in a name": lambda n: b'{"model": "' + rb"\\" * (n // 2) + b'"}',
    "a long key": lambda n: b'{"' + b" " * n + b'": 1, "model": "qwen3"}',
    "an escaped key": lambda n: b'{"' + rb"\u0041" * (n // 6) + b'": 1, "model": "qwen3"}',
    "many keys": lambda n: b"{" + b'"":0,' * (n // 5) + b'"model":"qwen3"}',
    "one key many times": lambda n: b"{" + b'"model":"a",' * (n // 12) + b'"model":"qwen3"}',
    "many escaped quotes": lambda n: b'{"prompt": "' + rb"\"" * (n // 2) + b'", "model": "qwen3"}',
    "many backslashes": lambda n: b'{"prompt": "' + rb"\\" * (n // 2) + b'", "model": "qwen3"}',
    "backslashes without an end": lambda n: b'{"model": "qwen3", "prompt": "' + rb"\\" * (n // 2),
    "brackets": lambda n: b'{"x": ' + b"[" * (n // 2) + b"]" * (n // 2) + b', "model": "qwen3"}',
    "open brackets": lambda n: b'{"model": "qwen3", "x": ' + b"[" * n,
    "open braces in messages": lambda n: b'{"model": "qwen3", "messages": [' + b'{"":' * (n // 4),
    "messages": lambda n: b'{"model": "qwen3", "messages": [' + b"{}," * (n // 3) + b"{}]}",
    "system messages": lambda n: (
        b'{"model": "qwen3", "messages": [' + b'{"role":"system"},' * (n // 18) + b"{}]}"
    ),
    "a long role": lambda n: b'{"model": "qwen3", "messages": [{"role": "' + b"s" * n + b'"}]}',
    "a number": lambda n: b'{"n": ' + b"1" * n + b', "model": "qwen3"}',
    "white space": lambda n: b"{" + b" " * n + b'"model": "qwen3"}',
    "nothing but white space": lambda n: b"\n" * n,
    "a context": lambda n: b'{"model": "qwen3", "context": [' + b"1," * (n // 2) + b"1]}",
    "parts": lambda n: (
        b'{"model": "qwen3", "messages": [{"content": [' + b'{"text":"a"},' * (n // 13) + b"{}]}]}"
    ),
    "blocks for billing": lambda n: (
        b'{"model": "qwen3", "system": [' + (b'{"text":"' + BILLING + b'"},') * (n // 46) + b"{}]}"
    ),
    "a line for billing": lambda n: b'{"model": "qwen3", "system": "' + BILLING + rb"\\" * (n // 2) + b'"}',
    "items": lambda n: b'{"model": "qwen3", "input": [' + b'{"role":"user"},' * (n // 16) + b"{}]}",
    "an image that is a part": lambda n: (
        b'{"model": "qwen3", "messages": [{"content": [{"text": "a"}, {"type": "image", "source": {"data": "'
        + rb"iVBORw0KGgo\/" * (n // 13)
        + b'"}}]}]}'
    ),
    "an image": lambda n: (
        b'{"model": "qwen3", "messages": [{"images": ["' + rb"iVBORw0KGgo\/" * (n // 13) + b'"]}]}'
    ),
}
"""Bodies of about n bytes, each growing where another part of the script looks."""


@pytest.mark.parametrize("path", [b"/api/chat", b"/v1/responses"])
@pytest.mark.parametrize("body", GROWING.values(), ids=GROWING)
def test_work_grows_as_a_body_does(body: Callable[[int], bytes], path: bytes) -> None:
    """F2: twice the size is at most some twice the work, from 16 KiB to 1 MiB."""
    spent = least = 0.05  # below it is noise
    for size in (MIB >> shift for shift in range(6, -1, -1)):
        text = body(size)
        begun = time.thread_time()
        ROUTE(text, path)
        last, spent = spent, max(least, time.thread_time() - begun)
        assert spent <= 3.5 * last, f"{size} bytes: {last:.2f} s became {spent:.2f} s"


@pytest.mark.parametrize("body", GROWING.values(), ids=GROWING)
def test_patterns_see_short_texts_and_little_is_copied(body: Callable[[int], bytes]) -> None:
    """F2, the kind: what repeats may try every start of its text. F9: there is no copy beside Envoy's own."""
    seen, text = runtime(before=WATCH).globals(), body(MIB // 2)
    for path in (b"/api/chat", b"/v1/responses"):
        seen[b"begin"]()
        seen[b"route_text"](text, path)
        within(seen, len(text))


def within(seen: Any, size: int) -> None:
    assert seen[b"longest_repeated"]() <= 8192
    assert seen[b"most_copied"]() <= 128 * 1024
    assert seen[b"all_copied"]() <= 3.5 * size + 128 * 1024


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (lambda n: b'{"model":"qwen3","x":[' + b"[]," * n + b"[]]}", 2),
        (lambda n: b'{"model":"qwen3","x":"' + rb"\"" * n + b'"}', 1),
        (lambda n: b'{"model":"qwen3","x":[' + b'"",' * n + b'""]}', 2),
    ],
    ids=["brackets", "quotes", "strings"],
)
def test_a_body_of_more_pieces_than_servers_read_is_left_to_the_directory(
    body: Callable[[int], bytes], size: int
) -> None:
    """F2: each costs a part of a microsecond, and a body may have 64 MiB of them."""
    route = runtime(steps=1000).globals()[b"route_text"]
    assert route(body(1000 // size - 20), b"/v1/chat/completions") is not None
    assert route(body(1000 // size + 20), b"/v1/chat/completions") is None


def test_where_pieces_run_out_behind_the_model_replicas_are_not_told_apart() -> None:
    """Empty objects are pieces too; what is read a second and third time counts each time."""
    text = b'{"model":"qwen3","messages":[{"role":"user","content":[' + b"{}," * 300 + b"{}]}]}"
    for steps, key in ((1000, None), (2000, ROUTE(text, b"/api/chat")[1])):
        found = runtime(steps=steps).globals()[b"route_text"](text, b"/api/chat")
        assert (found[0], found[1] if len(found) > 1 else None) == (b"q", key)


def test_what_servers_take_is_read_to_its_end() -> None:
    """As many containers, values and quotes within texts as their limits let pass."""
    few, many = DEFAULTS.json_containers // 2, DEFAULTS.json_values - DEFAULTS.json_containers
    said = rb"\"" * DEFAULTS.text_chars
    body = b'{"x":[' + b'{"":[]},' * few + b'"",' * many + b'"' + said + b'"],"model":"qwen3"}'
    assert ROUTE(body, b"/v1/chat/completions")[0] == b"q"


def test_a_name_that_is_longer_than_any_is_left_to_the_directory() -> None:
    assert workload({"model": " " * 400 + "qwen3" + " " * 400}) == "q"
    assert workload({"model": " " * 4000 + "qwen3"}) is None


@pytest.mark.parametrize(
    ("keyed", "authorization", "api_key", "enters"),
    [
        (False, None, None, True),
        (True, None, None, False),
        (True, b"", b"", False),
        (True, b"Digest abc", None, False),
        (True, b"abc", None, False),
        (True, b"Digest a:b", None, False),
        (True, b"basic abc", None, True),
        (True, b"AAAAC3NzaC1lZDI1NTE5:c2lnbmF0dXJl", None, True),
        (True, b"Bearer x", None, True),
        (True, b"bEaReR  x", None, True),
        (True, None, b"x", True),
    ],
)
def test_without_a_key_no_body_is_held(
    keyed: bool, authorization: bytes | None, api_key: bytes | None, enters: bool
) -> None:
    assert runtime(keyed=keyed).globals()[b"may_enter"](authorization, api_key) is enters


def test_what_has_no_beginning_to_be_cached_is_not_hashed() -> None:
    assert hashed({"model": "qwen3", "input": ["a", "b"]}) is None
    assert hashed({"model": "qwen3"}) is None
    assert script(affinity=False)(b'{"model":"qwen3","prompt":"Hi"}', b"/api/chat") in ((b"q", None), b"q")


def test_names_of_a_workload_share_what_is_cached() -> None:
    assert hashed({"model": "QWEN3:latest", "prompt": "Hi"}) == hashed({"model": "qwen3", "prompt": "Hi"})
