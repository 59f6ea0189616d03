"""Whatever a client sends is answered: with JSON, never with a fault of the server, and nothing stays behind.

Thousands of bodies go to the whole server with scripted engines, the nastiest also to the real one.
"""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine.base import Prompt, Run
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import HELLO as HELLO_BACK
from app.engine.fake.script import Reply
from chaos.answers import Answer
from chaos.apis import EVENTS, ending, is_refusal
from harness.fake_model import EVERYTHING, fake_model
from harness.requests.api_bodies import API_FIELDS, api_requests, api_tamed
from harness.requests.bodies import FIELDS, broken, encoded, requests, tamed
from harness.server import LiveServer
from tests.api.live import connect, read_to_end, response_of
from tests.e2e.engines import metric
from tests.e2e.fake_site import FakeSite, fake_site
from tests.e2e.ollama_lines import JSON, NDJSON, in_engines

ROUTES = tuple(FIELDS)
REFUSALS = (400, 403, 404, 413)
MIB = 1 << 20
HELLO = [{"role": "user", "content": "Hello"}]
SHORT: dict[str, Any] = {"num_predict": 2}

fuzz = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
fuzz_real = settings(fuzz, max_examples=30)


def assert_answered(answer: httpx.Response) -> None:
    """A success or a refusal, in the form that the API has for either."""
    if answer.status_code != 200:
        assert answer.status_code in REFUSALS, (answer.status_code, answer.text)
        document = json.loads(answer.content)
        assert list(document) == ["error"]
        assert document["error"]
        return
    if answer.headers["content-type"] == NDJSON:
        *rows, end = answer.content.split(b"\n")
        assert end == b""
        last = [json.loads(row) for row in rows][-1]
        assert last["done"] is True, last
    else:
        assert answer.headers["content-type"] == JSON
        assert isinstance(json.loads(answer.content), dict)


def post(client: httpx.Client, route: str, body: bytes) -> httpx.Response:
    return client.post(route, content=body)


def following(_: Prompt, run: Run) -> Reply:
    """As any engine does, the scripted one here keeps an answer to its format."""
    return HELLO_BACK if run.constraint is None else Reply(("{", "}"))


@pytest.fixture(scope="module")
def site() -> Iterator[FakeSite]:
    models = (
        fake_model("all", *EVERYTHING),
        fake_model("plain", "completion"),
        fake_model("emb", "embedding"),
    )
    with fake_site(*models, engine=lambda: FakeEngine(following), max_body_bytes=MIB) as made:
        yield made
        assert made.running == 0
        assert made.client.get("/api/version").status_code == 200


@pytest.mark.parametrize("route", ROUTES)
@fuzz
@given(data=st.data())
def test_any_json_is_answered(site: FakeSite, route: str, data: st.DataObject) -> None:
    assert_answered(post(site.client, route, data.draw(encoded(requests(route)))))


@pytest.mark.parametrize("route", ROUTES)
@settings(fuzz, max_examples=250)
@given(data=st.data())
def test_broken_json_is_answered(site: FakeSite, route: str, data: st.DataObject) -> None:
    assert_answered(post(site.client, route, data.draw(broken(requests(route)))))


def assert_answered_by(path: str, answer: httpx.Response) -> None:
    """The same by another API: its envelope, its end of a stream."""
    kind = answer.headers["content-type"]
    got = Answer(answer.status_code, kind, answer.content, path=path)
    if answer.status_code != 200:
        assert is_refusal(got), (answer.status_code, answer.text)
    elif kind.startswith(EVENTS):
        assert ending(got) == "", answer.text
    else:
        assert isinstance(json.loads(answer.content), dict)


@pytest.mark.parametrize("route", API_FIELDS)
@settings(fuzz, max_examples=120)
@given(data=st.data())
def test_any_json_is_answered_by_every_api(site: FakeSite, route: str, data: st.DataObject) -> None:
    asked = api_requests(route).map(api_tamed)
    body = data.draw(st.one_of(encoded(asked), encoded(asked), broken(asked)))
    assert_answered_by(route, post(site.client, route, body))


@pytest.mark.parametrize("route", ROUTES)
@settings(fuzz, max_examples=100)
@given(body=st.binary(max_size=100))
def test_any_bytes_are_answered(site: FakeSite, route: str, body: bytes) -> None:
    answer = post(site.client, route, body)
    assert_answered(answer)


@pytest.mark.parametrize("junk", [b"[" * 300, b'{"a":' * 100_000])
@pytest.mark.parametrize("value", [b"null", b"1 ", b'"x"', b"{}", b"[]"])
def test_nesting_after_the_value_is_ignored(site: FakeSite, value: bytes, junk: bytes) -> None:
    plain = post(site.client, "/api/chat", value)
    assert plain.status_code == 400
    assert post(site.client, "/api/chat", value + junk).text == plain.text


@pytest.mark.parametrize("depth", [199, 201, 9_999, 100_000])
@pytest.mark.parametrize("route", ROUTES)
def test_deep_nesting(site: FakeSite, route: str, depth: int) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        nest = opening * depth + b"1" + closing * depth
        for body in (nest, b'{"model":"all","options":' + nest + b"}", opening * depth):
            assert_answered(post(site.client, route, body))


@pytest.mark.parametrize(
    "number", ["1e400", "-1e400", "9" * 5000, "1" * 400 + "e-400", "0." + "0" * 5000 + "1"]
)
@pytest.mark.parametrize("key", ["temperature", "num_predict", "seed", "num_ctx", "nope"])
def test_numbers_beyond_any_type(site: FakeSite, number: str, key: str) -> None:
    body = f'{{"model":"all","prompt":"x","options":{{"{key}":{number}}}}}'
    assert_answered(post(site.client, "/api/generate", body.encode()))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit(site: FakeSite, chunked: bool) -> None:
    body = json.dumps({"model": "all", "prompt": "x" * MIB}).encode()
    pieces = (body[at : at + 65536] for at in range(0, len(body), 65536))
    answer = site.client.post("/api/generate", content=pieces if chunked else body)
    assert answer.status_code == 413
    assert answer.json() == {"error": f"request body is too large: the limit is {MIB} bytes"}
    fitting = json.dumps({"model": "all", "prompt": "x" * (MIB - 100), "stream": False}).encode()
    assert_answered(site.client.post("/api/generate", content=fitting))


def test_a_body_that_comes_too_slowly() -> None:
    with fake_site(fake_model("all"), body_timeout=0.2) as site, connect(site.port) as sock:
        sock.sendall(b'POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"model"')
        response, body = response_of(sock)
        assert response.status == 408
        assert json.loads(body) == {"error": "request body did not arrive within 0.2 seconds"}
        assert read_to_end(sock) == b""
        assert site.client.get("/").status_code == 200


def test_a_client_that_leaves_in_the_middle_of_its_body(site: FakeSite) -> None:
    for route in ROUTES:
        with connect(site.port) as sock:
            head = f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
            sock.sendall(head.encode() + b'{"model":"all"')
            sock.shutdown(socket.SHUT_RDWR)
    assert site.client.get("/api/version").status_code == 200
    assert site.running == 0


# From here on the real server.


@pytest.fixture(scope="module")
def real(client: httpx.Client) -> Iterator[httpx.Client]:
    assert client.post("/api/generate", json={"model": "tool"}).status_code == 200
    yield client
    assert in_engines(client) == 0
    greeted = client.post(
        "/api/chat",
        json={
            "model": "tool",
            "messages": HELLO,
            "think": False,
            "stream": False,
            "options": {"temperature": 0},
        },
    )
    assert greeted.json()["message"]["content"] == "Hello! How can I help you?"


def ask(client: httpx.Client, **fields: Any) -> httpx.Response:
    """A short generation by the small model."""
    options = {**SHORT, **fields.pop("options", {})}
    body = {"model": "tool", "prompt": "Hello", "options": options, **fields}
    return client.post("/api/generate", content=json.dumps(body))


@pytest.mark.engine
@pytest.mark.parametrize("route", ROUTES)
@fuzz_real
@given(data=st.data())
def test_the_real_server_answers_any_json(real: httpx.Client, route: str, data: st.DataObject) -> None:
    models = st.sampled_from(["tool", "TOOL:latest", "nosuch"])
    asked = requests(route, models, keep_alive=st.sampled_from([None, 300, "5m", "abc"]))
    body = data.draw(encoded(asked.map(tamed)))
    assert_answered(post(real, route, body))


OPTIONS: list[dict[str, Any]] = [
    {"seed": 2**63 - 1},
    {"seed": -(2**63)},
    {"seed": 2**70},
    {"temperature": 1e38},
    {"temperature": -1},
    {"temperature": 1e39},
    {"top_k": 2**60},
    {"top_k": -9},
    {"top_p": 0},
    {"top_p": -1},
    {"top_p": 7},
    {"min_p": 5},
    {"min_p": -5},
    {"typical_p": -1},
    {"repeat_penalty": 0},
    {"repeat_penalty": 1e30},
    {"repeat_penalty": 1e-30},
    {"repeat_last_n": -99},
    {"presence_penalty": 99},
    {"frequency_penalty": -1e30},
    {"num_ctx": -5},
    {"num_ctx": 2**60},
    {"num_keep": -7},
    {"num_keep": 2**60},
    {"num_predict": 0, "stop": ["H", "e", "l"]},
    {"num_predict": 2**60, "stop": ["H", "e", "l"]},
    {"stop": [""]},
    {"stop": ["\0", "\ud800", "x" * 10_000]},
    {"stop": ["a"] * 500},
]


@pytest.mark.engine
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: repr(options)[:40])
def test_options_beyond_their_range(real: httpx.Client, options: dict[str, Any]) -> None:
    for stream in (True, False):
        assert_answered(ask(real, options=options, stream=stream, think=False))


SCHEMAS: list[dict[str, Any]] = [
    {"type": "nope"},
    {"type": "object", "properties": {"a": {"type": "nope"}}},
    {"type": "object", "properties": 5},
    {"$ref": "#/missing"},
    {"$ref": "http://127.0.0.1/schema.json"},
    {"type": "string", "pattern": "("},
    {"enum": []},
    {"type": "object", "required": 5},
]


@pytest.mark.engine
@pytest.mark.point(92)
@pytest.mark.parametrize("schema", SCHEMAS, ids=repr)
@pytest.mark.parametrize("stream", [True, False])
def test_a_schema_that_cannot_be_enforced(real: httpx.Client, schema: dict[str, Any], stream: bool) -> None:
    before = metric(real, "generation_tokens_total", "tool")
    for think in (True, False):
        answer = ask(real, format=schema, stream=stream, think=think)
        assert (answer.status_code, answer.headers["content-type"]) == (400, JSON)
        assert len(answer.json()["error"]) > 10
    assert metric(real, "generation_tokens_total", "tool") == before


@pytest.mark.engine
@pytest.mark.point(156)
def test_contexts_too_long(real: httpx.Client) -> None:
    text = "the prompt is longer than the context length currently available to the model"
    long = "Hello " * 5000
    context = [1] * 5000
    for fields in ({"prompt": long, "raw": True}, {"prompt": long}, {"context": context}):
        for forbidding in ({"shift": False}, {"truncate": False}):
            answer = ask(real, **fields, **forbidding)
            assert answer.status_code == 400
            assert answer.json()["error"].startswith(text)
        cut = ask(real, **fields, stream=False)
        assert cut.status_code == 200
        assert cut.json()["prompt_eval_count"] <= 4096
    for wrong in ([-1], [10**9], [2**62]):
        answer = ask(real, context=wrong)
        assert (answer.status_code, "vocabulary" in answer.json()["error"]) == (400, True)


TEXTS = [
    "\0",
    "\ud800",
    "\udc00\ud800",
    "\ufeff",
    "\uffff",
    "\U0010ffff",
    "<|im_end|>",
    "{{ .X }}",
    "\r\n\v",
    "%s%n",
]


@pytest.mark.engine
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_texts_that_are_none(real: httpx.Client, text: str) -> None:
    """As escapes, which can say half of a character, and as bytes, which then are no UTF-8."""
    tool = {
        "function": {"name": text, "description": text, "parameters": {"properties": {text: {"type": text}}}}
    }
    call = {"function": {"name": text, "arguments": {text: text}}}
    chat = {
        "model": "tool",
        "messages": [
            {"role": text, "content": text, "thinking": text},
            {"role": "assistant", "content": text, "tool_calls": [call]},
            {"role": "tool", "content": text, "tool_name": text, "tool_call_id": text},
            {"role": "user", "content": text},
        ],
        "tools": [tool],
        "options": SHORT,
        text: text,
    }
    generate = {
        "model": "tool",
        "prompt": text,
        "system": text,
        "suffix": "",
        "options": {**SHORT, "stop": [text]},
    }
    for route, body in (("/api/chat", chat), ("/api/generate", generate)):
        for ascii_only in (True, False):
            raw = json.dumps(body, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
            answer = post(real, route, raw)
            assert_answered(answer)
            assert answer.status_code == 200, answer.text


@pytest.mark.engine
def test_100_megabytes_are_refused_unread(real: httpx.Client, server: LiveServer) -> None:
    port = httpx.URL(server.url).port
    assert port is not None
    with connect(port) as sock:
        head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {100 * MIB}\r\n\r\n"
        sock.sendall(head.encode())
        response, body = response_of(sock)
    assert response.status == 413
    assert json.loads(body) == {"error": f"request body is too large: the limit is {64 * MIB} bytes"}


@pytest.mark.engine
def test_a_model_that_is_named_by_anything(real: httpx.Client) -> None:
    for name in (
        "../../etc/passwd",
        "tool\0",
        "tool\n\n",
        "x" * 100_000,
        "://",
        "http://[::1/x",
        "${HOME}",
        "tool#",
    ):
        for route in ROUTES:
            answer = real.post(route, json={"model": name, "messages": HELLO, "prompt": "x", "input": "x"})
            assert_answered(answer)
