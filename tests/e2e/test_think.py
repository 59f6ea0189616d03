"""Reasoning: asked for, shown apart from the answer, never mixed into it (docs/reference 4.4 and 8)."""

import json
from typing import Any

import httpx
import jsonschema
import pytest

from harness.models.catalogue import GREETING, PERSON, QWEN3, Case, case, user
from tests.e2e.ollama_lines import Line, generate, lines, text, thinking, whole

pytestmark = pytest.mark.engine

ROUTES = ["generate", "chat"]
HELLO = case("qwen3", "hello")
ALONE = [each for each in QWEN3 if len(each.messages) == 1 and not each.tools and each.name != "story"]
GREEDY = {"temperature": 0}


def ask(client: httpx.Client, route: str, model: str, content: str = "", **fields: Any) -> httpx.Response:
    """The same question by either route; without content it only loads."""
    asked: dict[str, Any] = {"model": model, "options": GREEDY, **fields}
    if content:
        asked |= {"prompt": content} if route == "generate" else {"messages": [user(content)]}
    return client.post(f"/api/{route}", json=asked)


def parts_of(answer: httpx.Response) -> list[Line]:
    """The lines of a stream, or the document as the only one."""
    return lines(answer) if "ndjson" in answer.headers["content-type"] else [answer.json()]


@pytest.mark.point(121)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("content", ["hi", ""])
@pytest.mark.parametrize("think", [True, "high", "low"])
def test_a_model_that_cannot_think(client: httpx.Client, route: str, content: str, think: Any) -> None:
    answer = ask(client, route, "plain", content, think=think)
    assert (answer.status_code, answer.json()) == (400, {"error": '"plain" does not support thinking'})


@pytest.mark.point(122)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("think", [False, None])
def test_a_model_that_cannot_think_need_not(client: httpx.Client, route: str, think: bool | None) -> None:
    answer = ask(client, route, "plain", "Hi", think=think, options={"num_predict": 1}, stream=False)
    assert answer.status_code == 200
    assert (text([answer.json()]) != "", thinking([answer.json()])) == (True, "")


@pytest.mark.point(124)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("model", ["tool", "nosuch"])
@pytest.mark.parametrize(
    ("think", "error"),
    [
        (1, "think must be a boolean or string"),
        ([], "think must be a boolean or string"),
    ],
)
def test_what_think_cannot_be(client: httpx.Client, route: str, model: str, think: Any, error: str) -> None:
    answer = ask(client, route, model, "hi", think=think)
    known = "; supported values: [false,true]" if model == "tool" else ""
    assert (answer.status_code, answer.json()) == (400, {"error": error + known})


@pytest.mark.point(125, 128)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("known", ALONE, ids=[each.name for each in ALONE])
def test_reasoning_is_kept_apart_word_for_word(
    client: httpx.Client, route: str, stream: bool, known: Case
) -> None:
    parts = parts_of(ask(client, route, "tool", known.messages[0]["content"], stream=stream))
    assert (thinking(parts), text(parts)) == (known.thinking, known.content)
    assert parts[-1]["done_reason"] == "stop"


@pytest.mark.point(125)
@pytest.mark.point(123)
@pytest.mark.parametrize("think", [True, "low", "medium", "high", "max", None, "", "LOW", "bogus"])
def test_every_way_to_ask_for_reasoning(client: httpx.Client, think: Any) -> None:
    found = whole(client, "tool", prompt="Hello", think=think, options=GREEDY)
    assert (found["thinking"], found["response"]) == (HELLO.thinking, GREETING)


@pytest.mark.point(126)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [True, False])
def test_reasoning_that_is_not_wanted(client: httpx.Client, route: str, stream: bool) -> None:
    parts = parts_of(ask(client, route, "tool", "Hello", think=False, stream=stream))
    assert text(parts) == GREETING
    assert b"thinking" not in b"".join(json.dumps(part).encode() for part in parts)
    assert parts[-1]["eval_count"] < 12, "it was not made and then hidden"
    shown = ask(client, route, "tool", "Hello", think=False, _debug_render_only=True).json()
    assert shown["_debug_info"]["rendered_template"].endswith("<think>\n\n</think>\n\n")


@pytest.mark.point(127)
@pytest.mark.parametrize("route", ROUTES)
def test_reasoning_comes_first_on_lines_of_its_own(client: httpx.Client, route: str) -> None:
    *first, last = lines(ask(client, route, "tool", "Hello"))
    kinds = ["thinking" if thinking([line]) else "answer" for line in first]
    assert kinds == sorted(kinds, reverse=True)
    assert kinds.count("thinking") > 1
    for line, kind in zip(first, kinds, strict=True):
        assert (text([line]) == "") == (kind == "thinking")
    if route == "generate":
        assert list(first[0]) == ["model", "created_at", "response", "thinking", "done"]
    else:
        assert list(first[0]["message"]) == ["role", "content", "thinking"]
    assert thinking([last]) == ""


@pytest.mark.point(92)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("by_schema", [True, False])
def test_a_format_binds_the_answer_and_not_the_reasoning(
    client: httpx.Client, route: str, stream: bool, think: bool, by_schema: bool
) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    known = case("qwen3", "json")
    fields = {"format": schema if by_schema else "json", "stream": stream, "think": think}
    parts = parts_of(ask(client, route, "tool", known.messages[0]["content"], **fields))
    assert thinking(parts) == (known.thinking if think else "")
    jsonschema.validate(json.loads(text(parts)), schema)
    assert think or text(parts) == PERSON


def test_a_schema_overrules_what_the_model_would_say(client: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"ok": {"const": True}}, "required": ["ok"]}
    found = whole(client, "tool", prompt="Hello", format=schema, options=GREEDY | {"num_predict": 200})
    assert found["thinking"] == HELLO.thinking
    assert (json.loads(found["response"]), found["done_reason"]) == ({"ok": True}, "stop")


def test_a_limit_within_the_reasoning(client: httpx.Client) -> None:
    found = whole(client, "tool", prompt="Hello", options=GREEDY | {"num_predict": 5})
    assert (found["response"], found["done_reason"]) == ("", "length")
    assert found["thinking"] == HELLO.thinking[: len(found["thinking"])] != ""


@pytest.mark.point(74)
def test_a_stop_string_within_the_reasoning(client: httpx.Client) -> None:
    parts = lines(generate(client, "tool", prompt="Hello", options=GREEDY | {"stop": ["eeting"]}))
    assert (thinking(parts), text(parts), parts[-1]["done_reason"]) == ("A gr", "", "stop")


def test_without_reasoning_tags_are_text(client: httpx.Client) -> None:
    """A raw prompt does not switch the model's reasoning off, so it writes the tags (docs/reference 8.3)."""
    prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    found = whole(client, "tool", prompt=prompt, raw=True, think=False, options=GREEDY)
    assert found["response"] == f"<think>\n{HELLO.thinking}\n</think>\n\n{GREETING}"
    assert "thinking" not in found


def test_the_context_holds_the_reasoning_and_its_tags(client: httpx.Client) -> None:
    found = whole(client, "tool", prompt="Hello", options=GREEDY)
    fields = {"prompt": "Bye", "context": found["context"], "_debug_render_only": True}
    shown = generate(client, "tool", **fields).json()["_debug_info"]["rendered_template"]
    assert f"assistant\n<think>\n{HELLO.thinking}\n</think>\n\n{GREETING}<|im_start|>user\nBye" in shown


def test_logprobs_cover_the_reasoning_too(client: httpx.Client) -> None:
    *first, last = lines(generate(client, "tool", prompt="Hello", logprobs=True, options=GREEDY))
    entries = [entry for line in first for entry in line.get("logprobs", ())]
    assert len(entries) == last["eval_count"]
    spelled = "".join(entry["token"] for entry in entries)
    assert spelled.startswith(f"<think>\n{HELLO.thinking}\n</think>\n\nHello!")
    assert (thinking(first), text(first)) == (HELLO.thinking, GREETING)
