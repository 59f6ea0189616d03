"""route.lua on the bodies of OpenAI's and Anthropic's APIs: what turns of a session share (row C7)."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.agents import MARK, PIXEL, TURNS, Json, claude, codex, text
from tests.gateway.lua_route import hashed, routed, runtime, workload

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
RESPONSES, COMPACT = "/v1/responses", "/v1/responses/compact"


def test_all_turns_of_a_claude_code_session_have_one_hash() -> None:
    keys = {hashed(claude(turn), MESSAGES) for turn in range(TURNS)}
    assert len(keys) == 1
    assert None not in keys
    assert keys == {hashed(claude(7), COUNT)}


@pytest.mark.parametrize(
    "other",
    [{"system": "You are another."}, {"question": "Write a test."}, {"tools": []}, {"model": "ns/model"}],
    ids=lambda other: next(iter(other)),
)
def test_another_session_has_another_hash(other: Json) -> None:
    assert hashed(claude(3, **other), MESSAGES) != hashed(claude(3), MESSAGES)


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/api/chat"])
def test_what_comes_behind_the_first_message_does_not_count(path: str) -> None:
    """Late system messages above all, wherever they stand."""
    first, more = {"role": "user", "content": "Hi"}, {"role": "user", "content": "Go on"}
    late, answer = {"role": "system", "content": "9 left"}, {"role": "assistant", "content": "Yes?"}
    turns = ([first], [first, late], [first, late, answer, more, late], [first, more], [first, answer, late])
    assert len({hashed({"model": "qwen3", "messages": turn}, path) for turn in turns}) == 1


@pytest.mark.parametrize("line_end", ["\n", "\n\n"])
def test_the_line_for_billing_counts_wherever_it_begins_the_system(line_end: str) -> None:
    """Only that line: what follows it is told apart."""

    def key(cch: int, rest: str) -> bytes | None:
        said = f"x-anthropic-billing-header: cc_version=2; cch={cch};{line_end}{rest}"
        keys = {hashed(claude(0) | {"system": system}, MESSAGES) for system in (said, [text(said)])}
        (one,) = keys
        return one

    assert key(1, "Be brief.") == key(2, "Be brief.")
    assert key(1, "Be brief.") != key(1, "Be long.")


def test_the_line_for_billing_may_be_long_and_escaped_in_any_way() -> None:
    def body(cch: str) -> bytes:
        return (
            b'{"model":"qwen3","system":"x-anthropic-billing-header: %s","messages":[{"content":"Hi"}]}'
            % (cch.encode())
        )

    same = [r"1\u000aBe brief.", r"2\nBe brief.", r"\\n\u000ABe brief."]
    assert len({routed(body(each), MESSAGES) for each in same}) == 1
    assert routed(body("1" * 5000), MESSAGES) is not None


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_text_is_the_same_as_the_only_part_and_marks_do_not_count(path: str) -> None:
    contents: list[Any] = ["Hi", [text("Hi")], [text("Hi", **MARK)], [{"cache_control": None, **text("Hi")}]]
    bodies = [{"model": "qwen3", "messages": [{"role": "user", "content": content}]} for content in contents]
    assert len({hashed(body, path) for body in bodies}) == 1


def pictured(*parts: Json) -> Json:
    return {"model": "qwen3", "messages": [{"role": "user", "content": list(parts)}]}


def test_parts_are_told_apart() -> None:
    other = {**PIXEL, "source": {"type": "base64", "data": "iVBORw0KGgp="}}
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    bodies = [
        pictured(text("Hi")),
        pictured(text("Hi"), text("you")),
        pictured(text("Hi"), PIXEL),
        pictured(PIXEL, text("Hi")),
        pictured(text("Hi"), other),
        pictured(text("Hi"), url),
    ]
    assert len({hashed(body, CHAT) for body in bodies}) == len(bodies)


def test_all_turns_of_a_codex_session_have_one_hash() -> None:
    keys = {hashed(codex(turn), RESPONSES) for turn in range(TURNS)}
    assert len(keys) == 1
    assert None not in keys
    assert keys == {hashed(codex(3), COMPACT)}


@pytest.mark.parametrize(
    "other",
    [{"instructions": "Be brief."}, {"question": "Write a test."}, {"tools": []}],
    ids=lambda it: next(iter(it)),
)
def test_another_codex_session_has_another_hash(other: Json) -> None:
    assert hashed(codex(3, **other), RESPONSES) != hashed(codex(3), RESPONSES)


def test_an_input_of_text_is_the_first_message_of_the_turns_after_it() -> None:
    first = {"model": "qwen3", "instructions": "Be brief.", "input": "Hi"}
    item = {"role": "user", "content": "Hi"}
    later = {
        **first,
        "input": [item, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "So"}],
    }
    assert hashed(first, RESPONSES) == hashed(later, RESPONSES) is not None
    assert hashed({**first, "input": "Ho"}, RESPONSES) != hashed(first, RESPONSES)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBEDDINGS, {"input": "Hi"}),
        ("/api/embed", {"input": ["Hi"]}),
        ("/api/embeddings", {"prompt": "Hi"}),
        ("/api/show", {"system": "Be brief."}),
        (RESPONSES, {"instructions": "Only loads."}),
        (RESPONSES, {"input": []}),
        (MESSAGES, {"system": "Only loads.", "messages": []}),
        ("/v1/nope", {"prompt": "Hi"}),
    ],
)
def test_what_has_no_beginning_is_routed_and_not_hashed(path: str, body: Json) -> None:
    asked = {"model": "qwen3", **body}
    assert routed(json.dumps(asked).encode(), path) in (b"q", (b"q", None))


def test_a_completion_keeps_its_hash_as_it_grows() -> None:
    prompt = "def f(): pass\n" * 200
    key = hashed({"model": "qwen3", "prompt": prompt}, COMPLETIONS)
    assert (
        key == hashed({"model": "qwen3", "prompt": prompt + "more", "suffix": "end"}, COMPLETIONS) is not None
    )


def test_of_very_many_pieces_the_rest_is_counted_only() -> None:
    def parts(count: int) -> bytes | None:
        return hashed(pictured(*(text("x" * 3000) for _ in range(count))), CHAT)

    assert len({parts(count) for count in (1, 2, 500, 501)}) == 4


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v1/models/qwen3", b"q"),
        (b"/v1/models/QWEN3%3Alatest", b"q"),
        (b"/v1/models/ns%2fmodel", b"n"),
        (b"/v1/models/nobody", None),
        (b"/v1/models/", None),
        (b"/v1/models", None),
        (b"/v1/models/" + b"%20" * 4000 + b"qwen3", None),
        (b"/v1/models/%", None),
    ],
)
def test_a_path_names_a_model(path: bytes, expected: bytes | None) -> None:
    assert runtime().globals()[b"route_path"](path) == expected


HANDLE = """
function ask(given, body)
  local made, answer = {}, nil
  local headers = {
    get = function(_, name) return given[name] end,
    add = function(_, name, value) made[name] = value end,
    remove = function(_, name) given[name] = nil end,
  }
  local handle = {
    headers = function() return headers end,
    respond = function(_, head) answer = head[":status"] end,
    body = function()
      return {
        length = function() return #body end,
        getBytes = function(_, first, count) return body:sub(first + 1, first + count) end,
      }
    end,
  }
  envoy_on_request(handle)
  return made["x-caravan-model"], made["x-caravan-affinity"], answer
end
"""
BODY = json.dumps({"model": "ns/model", "messages": [{"role": "user", "content": "Hi"}]}).encode()


def asks(**changes: Any) -> Callable[..., tuple[Any, ...]]:
    """`envoy_on_request` for a head and a body: the workload, the hash, the status of a refusal."""
    lua = runtime(**changes)
    lua.execute(HANDLE.encode())

    def ask(path: str, body: bytes | None = BODY, method: str = "POST", **headers: str) -> tuple[Any, ...]:
        given = {b":path": path.encode(), b":method": method.encode()}
        given |= {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        return lua.globals()[b"ask"](lua.table_from(given), body)

    return ask


def test_a_request_gets_its_route_from_body_or_path() -> None:
    ask = asks()
    slug, key, refused = ask(MESSAGES + "?beta=true")
    assert (slug, refused) == (b"n", None)
    assert key == hashed(json.loads(BODY), MESSAGES)
    assert ask("/v1/models/qwen3?x=1", method="GET")[0] == b"q"
    assert ask("/v1/models", method="GET") == (None, None, None)
    assert ask("/v1/models/qwen3", method="HEAD") == (None, None, None)


@pytest.mark.parametrize("encoding", ["zstd", "gzip", " GZIP ", "identity, br"])
def test_an_encoded_body_is_refused_where_models_are_several(encoding: str) -> None:
    ask = asks(keyed=True)
    assert ask(RESPONSES, content_encoding=encoding, x_api_key="k") == (None, None, b"415")
    assert ask(RESPONSES, content_encoding=encoding) == (None, None, None), "who shows no key gets no further"
    assert ask("/v1/nope", content_encoding=encoding, x_api_key="k")[2] is None
    assert ask(RESPONSES, content_encoding="identity", x_api_key="k")[0] == b"n"


def test_an_encoded_body_goes_to_the_only_model() -> None:
    ask = asks(models={"qwen3": "q", "pirate": "q"})
    assert ask(RESPONSES, content_encoding="zstd") == (b"q", None, None)


def test_a_client_does_not_choose_a_route_by_header() -> None:
    head = {"x_caravan_model": "n", "x_caravan_affinity": "1"}
    assert asks()("/v1/nope", b"{}", **head) == (None, None, None)


def test_the_model_is_found_on_every_path() -> None:
    for path in (CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, COUNT, RESPONSES, COMPACT):
        assert workload({"input": [], "model": "QWEN3:latest", "messages": []}, path) == "q"
