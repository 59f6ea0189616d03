"""`POST /api/generate` as Ollama answers it (docs/reference 6): documents, lines, prompts, refusals."""

import re
import time
from itertools import pairwise
from typing import Any

import httpx
import pytest

from harness.models.catalogue import FILLS, GREETING, case
from tests.e2e.ollama_lines import JSON, NDJSON, generate, in_engines, lines, text, whole

pytestmark = pytest.mark.engine

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z"
METRICS = [
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_cached_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
]
SHORT = {"num_predict": 4, "temperature": 0}
ABORTED_S = 10.0


def rendered(client: httpx.Client, model: str, **fields: Any) -> str:
    """The prompt as the model would get it."""
    return generate(client, model, _debug_render_only=True, **fields).json()["_debug_info"][
        "rendered_template"
    ]


def assert_document(answer: httpx.Response, pattern: str) -> None:
    """The whole body, byte by byte but for the time, and the headers of an ordinary answer."""
    assert answer.status_code == 200
    assert answer.headers["content-type"] == JSON
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert re.fullmatch(pattern, answer.text), answer.text


def assert_refused(answer: httpx.Response, error: str, status: int = 400) -> None:
    assert (answer.status_code, answer.json()) == (status, {"error": error})
    assert answer.headers["content-type"] == JSON


# plain: a stream and the same as a document, asked for once.


@pytest.fixture(scope="module")
def streamed(client: httpx.Client) -> httpx.Response:
    """The default stream of a short answer that the token limit ends."""
    generate(client)
    return generate(client, prompt="Hi", options=SHORT)


@pytest.fixture(scope="module")
def document(client: httpx.Client, streamed: httpx.Response) -> httpx.Response:
    """The same answer in one piece, from the same prompt once more."""
    return generate(client, prompt="Hi", options=SHORT, stream=False)


@pytest.mark.point(61, 62)
@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"stream": False}])
def test_an_empty_prompt_loads_the_model(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = generate(client, **fields)
    loaded = rf'\{{"model":"plain","created_at":"{STAMP}","response":"","done":true,"done_reason":"load"\}}'
    assert_document(answer, loaded)


@pytest.mark.point(64)
def test_unloading_a_model_that_is_not_installed(client: httpx.Client) -> None:
    assert_refused(generate(client, "nosuch", keep_alive=0), "model 'nosuch' not found", 404)


@pytest.mark.point(65)
def test_a_stream_is_the_default(streamed: httpx.Response) -> None:
    assert streamed.headers["content-type"] == NDJSON
    assert streamed.headers["transfer-encoding"] == "chunked"
    assert len(lines(streamed)) > 2
    assert not re.search(rb"[:,] |\n\n", streamed.content), "lines are compact and follow each other at once"


@pytest.mark.point(66, 67, 73)
def test_the_keys_of_each_line_and_their_order(streamed: httpx.Response) -> None:
    *first, last = lines(streamed)
    assert {tuple(line) for line in first} == {("model", "created_at", "response", "done")}
    assert {line["done"] for line in first} == {False}
    assert list(last) == ["model", "created_at", "response", "done", "done_reason", "context", *METRICS]
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "length", SHORT["num_predict"])


@pytest.mark.point(69)
def test_durations_are_whole_nanoseconds_and_a_loaded_model_still_took_some(
    streamed: httpx.Response,
) -> None:
    last = lines(streamed)[-1]
    assert all(type(last[key]) is int for key in METRICS)
    assert all(last[key] > 0 for key in METRICS if key != "prompt_eval_cached_count")
    parts = last["load_duration"] + last["prompt_eval_duration"] + last["eval_duration"]
    assert 1_000_000 < parts <= last["total_duration"]


@pytest.mark.point(75)
def test_created_at_is_utc_with_no_trailing_zeros(streamed: httpx.Response) -> None:
    stamps = [line["created_at"] for line in lines(streamed)]
    assert all(re.fullmatch(STAMP, stamp) for stamp in stamps)
    assert len(set(stamps)) == len(stamps)


@pytest.mark.point(68)
def test_a_document_is_the_stream_in_one_piece(streamed: httpx.Response, document: httpx.Response) -> None:
    parts, one = lines(streamed), document.json()
    assert document.headers["content-type"] == JSON
    assert int(document.headers["content-length"]) == len(document.content)
    assert document.content.endswith(b"}")
    assert list(one) == list(parts[-1])
    assert one["response"] == text(parts) != ""
    for key in ("context", "prompt_eval_count", "eval_count", "done_reason"):
        assert one[key] == parts[-1][key]


def test_cached_prompt_tokens_are_counted(client: httpx.Client) -> None:
    prompt, once = "count " * 150, {"num_predict": 1}
    first, again = (whole(client, prompt=prompt, raw=True, options=once) for _ in range(2))
    assert first["prompt_eval_count"] == again["prompt_eval_count"] > 128
    assert first["prompt_eval_cached_count"] == 0
    assert 0 < again["prompt_eval_cached_count"] < again["prompt_eval_count"]


@pytest.mark.point(68)
def test_stream_null_is_stream_absent(client: httpx.Client) -> None:
    assert lines(generate(client, prompt="Hi", stream=None, options={"num_predict": 1}))[-1]["done"]


@pytest.mark.point(70, 72)
def test_raw_takes_an_empty_context_and_gives_none(client: httpx.Client) -> None:
    parts = lines(generate(client, prompt="Hi", raw=True, context=[], options={"num_predict": 1}))
    assert list(parts[-1]) == ["model", "created_at", "response", "done", "done_reason", *METRICS]


@pytest.mark.point(71, 72)
@pytest.mark.parametrize("prompt", ["hi", ""])
@pytest.mark.parametrize("field", [{"system": "x"}, {"template": "{{ .Prompt }}"}, {"context": [1]}])
def test_raw_with_what_belongs_to_a_template(
    client: httpx.Client, field: dict[str, Any], prompt: str
) -> None:
    answer = generate(client, prompt=prompt, raw=True, **field)
    assert_refused(answer, "raw mode does not support template, system, or context")


def test_a_raw_prompt_is_not_touched(client: httpx.Client) -> None:
    prompt = "  {{ .Prompt }} <|im_start|>user\n\t\u2028Ünï 🧀 \\n "
    assert rendered(client, "sys", prompt=prompt, raw=True) == prompt


@pytest.mark.point(77)
def test_the_prompt_can_be_looked_at(client: httpx.Client) -> None:
    prompt = r"\\u003c\|im_start\|\\u003esystem\\nSYS\\u003c\|im_end\|\\u003e.*hi.*assistant\\n"
    info = rf'"_debug_info":\{{"rendered_template":"{prompt}"\}}'
    answer = generate(client, "sys", prompt="hi", _debug_render_only=True)
    document = rf'\{{"model":"sys","created_at":"{STAMP}","response":"","done":false,{info}\}}'
    assert_document(answer, document)


@pytest.mark.point(78)
@pytest.mark.parametrize(("system", "used"), [("OVR", "OVR"), ("", "SYS")])
def test_a_system_prompt_replaces_that_of_the_model(client: httpx.Client, system: str, used: str) -> None:
    found = rendered(client, "sys", prompt="hi", system=system)
    assert [word for word in ("SYS", "OVR") if word in found] == [used]


@pytest.mark.point(79)
def test_a_template_replaces_that_of_the_model(client: httpx.Client) -> None:
    assert rendered(client, "plain", prompt="hi", template="T:{{ .Prompt }}") == "T:hi"


@pytest.mark.point(80)
@pytest.mark.parametrize("stream", [True, False])
def test_a_template_that_does_not_parse(client: httpx.Client, stream: bool) -> None:
    answer = generate(client, prompt="hi", template="{{ .Bad", stream=stream)
    assert_refused(answer, "template: :1: unclosed action")


@pytest.mark.point(81)
def test_the_order_of_the_messages(client: httpx.Client) -> None:
    found = rendered(client, "msgs", prompt="hi")
    assert re.findall(r"MSYS|U0|A0|hi", found) == ["MSYS", "U0", "A0", "hi"]


@pytest.mark.point(82)
def test_a_context_stands_for_the_messages_and_comes_first(
    client: httpx.Client, document: httpx.Response
) -> None:
    fresh = rendered(client, "msgs", prompt="hi", context=[])
    assert re.findall(r"MSYS|U0|A0|hi", fresh) == ["MSYS", "hi"]
    earlier = document.json()["context"]
    assert rendered(client, "msgs", prompt="hi", context=earlier).endswith(
        document.json()["response"] + fresh
    )
    assert rendered(client, "msgs", prompt="hi", context=[120]) != fresh


def test_a_context_goes_on_with_the_conversation(client: httpx.Client) -> None:
    once = {"num_predict": 8, "temperature": 0}
    first = whole(client, prompt="My name is Ann.", options=once)
    alone = whole(client, prompt="Who am I?", options=once)
    second = whole(client, prompt="Who am I?", context=first["context"], options=once)
    assert second["prompt_eval_count"] == len(first["context"]) + alone["prompt_eval_count"]
    assert second["context"][: len(first["context"])] == first["context"]
    assert len(first["context"]) == first["prompt_eval_count"] + first["eval_count"]


def test_a_context_of_another_vocabulary_is_refused(client: httpx.Client) -> None:
    for token in (10**9, -1):
        error = "context holds a token that is not in the model's vocabulary"
        assert_refused(generate(client, prompt="hi", context=[token]), error)


@pytest.mark.point(84)
def test_a_suffix_for_a_model_that_cannot_insert(client: httpx.Client) -> None:
    error = "registry.ollama.ai/library/plain:latest does not support insert"
    assert_refused(generate(client, prompt="hi", suffix="x"), error)


@pytest.mark.point(85)
@pytest.mark.parametrize("prompt", ["hi", ""])
def test_a_model_that_only_embeds(client: httpx.Client, prompt: str) -> None:
    assert_refused(generate(client, "emb", prompt=prompt), '"emb" does not support generate')


@pytest.mark.point(86)
def test_logprobs_are_on_the_line_of_their_tokens(client: httpx.Client, streamed: httpx.Response) -> None:
    *first, last = lines(generate(client, prompt="Hi", logprobs=True, options=SHORT))
    assert [list(line) for line in first] == [
        ["model", "created_at", "response", "done", "logprobs"] for _ in first
    ]
    for line in first:
        assert "".join(entry["token"] for entry in line["logprobs"]) == line["response"]
    entries = [entry for line in first for entry in line["logprobs"]]
    assert [list(entry) for entry in entries] == [["token", "logprob", "bytes"] for _ in entries]
    assert all(bytes(entry["bytes"]).decode() == entry["token"] for entry in entries)
    assert len(entries) == last["eval_count"]
    assert "logprobs" not in last
    assert text(first) == text(lines(streamed))


@pytest.mark.point(87)
def test_top_logprobs_of_a_document(client: httpx.Client) -> None:
    found = whole(client, prompt="Hi", logprobs=True, top_logprobs=2, options=SHORT)
    assert list(found)[-1] == "logprobs"
    assert len(found["logprobs"]) == found["eval_count"]
    for entry in found["logprobs"]:
        assert list(entry) == ["token", "logprob", "bytes", "top_logprobs"]
        assert len(entry["top_logprobs"]) == 2
        best, second = entry["top_logprobs"]
        assert second["logprob"] <= best["logprob"] <= 0
        assert entry["token"] == best["token"], "greedy"


@pytest.mark.point(88)
@pytest.mark.parametrize("model", ["plain", "nosuch"])
@pytest.mark.parametrize("count", [21, -1])
def test_too_many_top_logprobs(client: httpx.Client, model: str, count: int) -> None:
    error = "top_logprobs must be between 0 and 20"
    assert_refused(generate(client, model, prompt="hi", top_logprobs=count), error)


@pytest.mark.point(89, 90)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("sent", "shown"), [("xml", r'"\"xml\""'), (5, '"5"'), ([1], '"[1]"')])
def test_a_format_that_is_none(client: httpx.Client, sent: Any, shown: str, stream: bool) -> None:
    error = f'invalid format: {shown}; expected "json" or a valid JSON Schema object'
    assert_refused(generate(client, prompt="hi", format=sent, stream=stream), error)


@pytest.mark.point(91)
@pytest.mark.parametrize("sent", ["", None])
def test_an_empty_format_constrains_nothing(
    client: httpx.Client, document: httpx.Response, sent: str | None
) -> None:
    assert whole(client, prompt="Hi", format=sent, options=SHORT)["response"] == document.json()["response"]


@pytest.mark.point(93)
def test_a_load_does_not_look_at_the_format(client: httpx.Client) -> None:
    assert generate(client, format="xml").json()["done_reason"] == "load"


@pytest.mark.point(94)
def test_a_client_that_leaves_stops_the_generation(client: httpx.Client) -> None:
    """Without the abort the engine would be busy for many times as long."""
    body = {"model": "plain", "prompt": "Tell a long story.", "options": {"num_predict": 2000, "stop": []}}
    with client.stream("POST", "/api/generate", json=body) as answer:
        lines = answer.iter_lines()  # Its end would be the answer's, so it is held.
        next(lines)
        assert in_engines(client) == 1
    deadline = time.monotonic() + ABORTED_S
    while in_engines(client):
        assert time.monotonic() < deadline


@pytest.mark.point(63, 97)
def test_unloading_now_or_when_nothing_is_loaded(client: httpx.Client) -> None:
    unloaded = (
        rf'\{{"model":"plain","created_at":"{STAMP}","response":"","done":true,"done_reason":"unload"\}}'
    )
    for _ in range(2):
        assert_document(generate(client, keep_alive=0, options={"temperature": "x"}), unloaded)
        assert "plain:latest" not in [row["name"] for row in client.get("/api/ps").json()["models"]]


# tool: answers that are known word for word.


@pytest.mark.point(76)
@pytest.mark.parametrize("stream", [True, False])
def test_html_is_escaped_on_the_wire(client: httpx.Client, stream: bool) -> None:
    known = case("qwen3", "html")
    prompt = known.messages[0]["content"]
    answer = generate(client, "tool", prompt=prompt, stream=stream, think=False, options={"temperature": 0})
    parts = lines(answer) if stream else [answer.json()]
    assert text(parts) == known.content
    assert not re.search(rb"[<>&]", answer.content)
    assert answer.content.count(rb"\u003c") >= 4
    if not stream:
        assert rb"""\u003cb\u003e\u0026\u003c/b\u003e \"quoted\" 'single' \u003cp\u003e""" in answer.content


def test_line_separators_are_escaped_and_other_letters_are_not(client: httpx.Client) -> None:
    for name, sent in (
        ("escapes", rb"a\tb\n\"c\" \\d\\ \u2028/"),
        ("unicode", "🧀👩\u200d🚀 naïve 日本".encode()),
    ):
        known = case("qwen3", name)
        prompt = known.messages[0]["content"]
        answer = generate(client, "tool", prompt=prompt, stream=False, options={"temperature": 0})
        assert sent in answer.content
        found = answer.json()
        assert (found["response"], found["thinking"]) == (known.content, known.thinking)


@pytest.mark.point(74)
@pytest.mark.parametrize(
    ("stops", "kept"), [(["an I h"], "Hello! How c"), (["zz", "you?", "?"], "Hello! How can I help ")]
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_ends_the_answer_and_never_shows(
    client: httpx.Client, stream: bool, stops: list[str], kept: str
) -> None:
    options = {"stop": stops, "temperature": 0}
    answer = generate(client, "tool", prompt="Hello", think=False, stream=stream, options=options)
    parts = lines(answer) if stream else [answer.json()]
    assert text(parts) == kept
    assert parts[-1]["done_reason"] == "stop"
    assert rendered(client, "tool", prompt="x", context=parts[-1]["context"]).count(stops[-1]) == 0


def test_a_raw_prompt_reaches_the_model_as_it_is(client: httpx.Client) -> None:
    prompt = rendered(client, "tool", prompt="Hello")
    once = {"temperature": 0}
    templated, raw = (
        whole(client, "tool", options=once, **sent)
        for sent in ({"prompt": "Hello"}, {"prompt": prompt, "raw": True})
    )
    for key in ("response", "thinking", "prompt_eval_count", "eval_count"):
        assert raw[key] == templated[key]
    assert raw["response"] == GREETING


def test_logprobs_have_the_true_bytes_of_half_characters(client: httpx.Client) -> None:
    known = case("qwen3", "unicode")
    prompt = known.messages[0]["content"]
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 5, "options": {"temperature": 0}}
    found = whole(client, "tool", prompt=prompt, think=False, **fields)
    spelled = bytes(byte for entry in found["logprobs"] for byte in entry["bytes"])
    assert spelled.removesuffix(b"<|im_end|>").decode() == found["response"] == known.content
    halves = [entry for entry in found["logprobs"] if "\ufffd" in entry["token"]]
    assert len(halves) > 10, "characters beyond ASCII are several tokens each"
    for entry in found["logprobs"]:
        tops = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(tops) == 5
        assert all(one >= other for one, other in pairwise(tops))
        assert entry["logprob"] <= 0


# fim: what belongs between two pieces of code.


@pytest.mark.point(83)
@pytest.mark.parametrize("fill", FILLS, ids=[fill.name for fill in FILLS])
def test_a_suffix_asks_for_what_is_missing(client: httpx.Client, fill: Any) -> None:
    fields = {"prompt": fill.prefix, "suffix": fill.suffix, "options": {"temperature": 0}}
    assert rendered(client, "fim", system="SYSTEM", **fields) == fill.prompt
    answer = lines(generate(client, "fim", **fields))
    assert text(answer) == fill.middle
    assert answer[-1]["done_reason"] == "stop"
