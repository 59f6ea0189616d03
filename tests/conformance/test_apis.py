"""One suite for every API: what is true of a chat is true of it in each API's own words."""

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from typing import Any

import httpx
import pytest

from app.access.keys import new_key
from app.core.errors import EngineFailed
from app.core.events import Content, Thinking, ToolCall
from app.engine.base import Prompt, Run
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from tests.conformance.apis import APIS, SCHEMA, TOOL, Api, Said
from tests.e2e.fake_site import FakeSite, fake_site

KEY, HASH = new_key("client")
TEXTS = ("A <b>", " & c", "", " é\u2028", " \U0001f600", " end.")
WHOLE = "".join(TEXTS)
CALL = ToolCall(0, "call_1", "get_weather", {"city": "Paris <&>"})


THOUGHTS = [Thinking("Let me"), Thinking(" see."), Content("It is"), Content(" so.")]
REPLIES = {
    "think": Reply([event.text for event in THOUGHTS], events=[[event] for event in THOUGHTS]),
    "call": Reply(["I look."], events=[[Content("I look.")], [CALL]]),
    "two calls": Reply([""], events=[[], [CALL, ToolCall(1, "call_2", "get_weather", {"city": "Rome"})]]),
    "schema": Reply(['{"ok":', "true}"]),
    "nothing": Reply([""]),
    "fail at once": Reply([], error=EngineFailed("it broke")),
    "fail later": Reply(["one", " two", " three"], error=EngineFailed("it broke"), error_after=2),
    "long": Reply([f"w{number} " for number in range(50)]),
}


def script(_: Prompt, run: Run) -> Reply:
    """A model that does what the last message names."""
    asked = run.chat.messages[-1].text
    if asked == "fault":
        raise ZeroDivisionError
    if asked == "hold":
        return Reply(["a ", "b "], gate=asyncio.Event())
    return REPLIES.get(asked, Reply(TEXTS))


@pytest.fixture(scope="module")
def site() -> Iterator[FakeSite]:
    with fake_site(fake_model("m"), engine=lambda: FakeEngine(script)) as made:
        yield made


def ask(site: FakeSite, api: Api, text: str, *, stream: bool, **wanted: Any) -> httpx.Response:
    return site.client.post(api.path, json=api.body(text, stream=stream, **wanted))


def said(site: FakeSite, api: Api, text: str, *, stream: bool, **wanted: Any) -> Said:
    answer = ask(site, api, text, stream=stream, **wanted)
    assert answer.status_code == 200, answer.text
    is_stream = not answer.headers["content-type"].startswith("application/json")
    assert is_stream is stream
    return api.stream(answer.text) if stream else api.whole(answer.json())


apis = pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@apis
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("hello", {}),
        ("think", {"think": True}),
        ("call", {"tool": True}),
        ("two calls", {"tool": True}),
        ("schema", {"schema": True}),
        ("long", {"most": 7}),
        ("nothing", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stream_comes_to_what_a_document_says(
    site: FakeSite, api: Api, text: str, wanted: dict[str, Any]
) -> None:
    whole = said(site, api, text, stream=False, **wanted)
    streamed = said(site, api, text, stream=True, **wanted)
    assert astuple(streamed) == astuple(whole)


@both
def test_all_apis_say_the_same(site: FakeSite, stream: bool) -> None:
    for text, wanted in (("hello", {}), ("long", {"most": 7}), ("call", {"tool": True})):
        found = [astuple(said(site, api, text, stream=stream, **wanted)) for api in APIS]
        assert found == [found[0]] * len(APIS), text


@apis
@both
def test_text_arrives_as_it_is(site: FakeSite, api: Api, stream: bool) -> None:
    found = said(site, api, "hello", stream=stream)
    assert (found.text, found.end) == (WHOLE, "stop")
    assert found.output_tokens > 0
    assert found.prompt_tokens > 0


@apis
@both
def test_reasoning_is_told_apart(site: FakeSite, api: Api, stream: bool) -> None:
    found = said(site, api, "think", stream=stream, think=True)
    assert (found.thinking, found.text) == ("Let me see.", "It is so.")


@apis
@both
def test_calls_are_whole_and_text_beside_them_is_kept(site: FakeSite, api: Api, stream: bool) -> None:
    found = said(site, api, "call", stream=stream, tool=True)
    assert (found.calls, found.end) == ([(TOOL["name"], CALL.arguments)], "tools")
    assert found.text == "I look."


@apis
@both
def test_a_length_is_kept_and_told(site: FakeSite, api: Api, stream: bool) -> None:
    found = said(site, api, "long", stream=stream, most=7)
    assert (found.end, found.output_tokens) == ("length", 7)


@pytest.mark.parametrize("api", [api for api in APIS if api.name != "responses"], ids=lambda api: api.name)
@both
def test_a_stop_string_ends_an_answer(site: FakeSite, api: Api, stream: bool) -> None:
    """The Responses API has no stop strings."""
    found = said(site, api, "long", stream=stream, stop="w3")
    assert (found.text, found.end) == ("w0 w1 w2 ", "stop")


@apis
@both
def test_a_schema_reaches_the_engine(site: FakeSite, api: Api, stream: bool) -> None:
    assert said(site, api, "schema", stream=stream, schema=True).text == '{"ok":true}'
    constraint = site.engines[-1].asked[-1].run.constraint
    assert constraint is not None
    assert constraint.schema == SCHEMA


@apis
@both
def test_a_failure_before_the_first_frame_has_its_status(site: FakeSite, api: Api, stream: bool) -> None:
    answer = ask(site, api, "fail at once", stream=stream)
    assert answer.status_code == 500
    assert api.error(answer.json()) == "it broke"


@apis
def test_a_failure_after_the_first_frame_is_told_at_the_end(site: FakeSite, api: Api) -> None:
    answer = ask(site, api, "fail later", stream=True)
    assert answer.status_code == 200
    assert "it broke" in answer.text
    found = api.stream(answer.text)
    assert (found.text, found.end) == ("one two", "error")


@apis
def test_a_failure_of_a_document_has_its_status_at_any_time(site: FakeSite, api: Api) -> None:
    answer = ask(site, api, "fail later", stream=False)
    assert (answer.status_code, api.error(answer.json())) == (500, "it broke")


@apis
@both
def test_a_fault_of_the_server_keeps_its_details(site: FakeSite, api: Api, stream: bool) -> None:
    answer = ask(site, api, "fault", stream=stream)
    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.text


@apis
@both
def test_a_model_that_is_not_there(site: FakeSite, api: Api, stream: bool) -> None:
    answer = ask(site, api, "hello", stream=stream, model="nosuch")
    assert (answer.status_code, api.error(answer.json())) == (404, "model 'nosuch' not found")


@apis
@both
def test_a_client_that_leaves_ends_the_work(site: FakeSite, api: Api, stream: bool) -> None:
    request = site.client.build_request("POST", api.path, json=api.body("hold", stream=stream))
    head = f"POST {api.path} HTTP/1.1\r\nHost: localhost\r\n".encode()
    head += b"".join(b"%s: %s\r\n" % pair for pair in request.headers.raw if pair[0].lower() != b"host")
    with socket.create_connection(("127.0.0.1", site.port)) as client:
        client.sendall(head + b"\r\n" + request.read())
        _eventually(lambda: site.running == 1)
    _eventually(lambda: site.running == 0)


def _eventually(holds: Any) -> None:
    ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)


async def held_from_the_second(index: int) -> None:
    if index:
        await asyncio.Event().wait()


async def held_from_the_first(_: int) -> None:
    await asyncio.Event().wait()


def test_a_deadline_is_told_before_and_after_the_first_frame() -> None:
    def slow(_: Prompt, run: Run) -> Reply:
        late = run.chat.messages[-1].text == "late"
        return Reply(["a ", "b "], gate=held_from_the_second if late else held_from_the_first)

    asked = [(api, text, stream) for api in APIS for text in ("never", "late") for stream in (False, True)]
    with fake_site(fake_model("m"), engine=lambda: FakeEngine(slow), request_timeout=2) as made:
        with ThreadPoolExecutor(len(asked)) as threads:
            answers = list(threads.map(lambda each: ask(made, each[0], each[1], stream=each[2]), asked))
        _eventually(lambda: not made.running)
    for (api, text, stream), answer in zip(asked, answers, strict=True):
        if text == "late" and stream:
            assert answer.status_code == 200
            assert (api.stream(answer.text).text, api.stream(answer.text).end) == ("a ", "error"), api.name
        else:
            assert _status(answer, api) == 504
            assert "longer than this server allows" in api.error(answer.json())


# What is answered before any route sees the request


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeSite]:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    limits = "{requests_per_minute: 1}"
    file.write_text(
        f"keys:\n- {{id: client, hash: '{HASH}', scopes: [inference], models: [m], limits: {limits}}}\n"
    )
    with fake_site(fake_model("m"), fake_model("other"), keys_file=file, max_body_bytes=4096) as made:
        yield made


@apis
def test_refusals_before_the_route_are_in_the_words_of_the_api(keyed: FakeSite, api: Api) -> None:
    body = api.body("hello", stream=False)
    assert _status(keyed.client.post(api.path, json=body), api) == 401
    for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
        found = {_status(keyed.client.post(api.path, json=body, headers=headers), api) for _ in range(2)}
        assert found & {200, 429} == found
    limited = keyed.client.post(api.path, json=body, headers={"x-api-key": KEY})
    assert _status(limited, api) == 429
    assert int(limited.headers["retry-after"]) > 0


@apis
def test_a_body_that_is_too_large_is_told(api: Api) -> None:
    with fake_site(fake_model("m"), max_body_bytes=4096) as small:
        assert _status(ask(small, api, "x" * 5000, stream=False), api) == 413
        assert _status(small.client.post(api.path, content=b"{"), api) == 400
        assert _status(small.client.post(api.path, content=b""), api) == 400


def _status(answer: httpx.Response, api: Api) -> int:
    if answer.status_code >= 400:
        assert api.error(answer.json())
        assert answer.headers["content-type"].startswith("application/json")
    return answer.status_code
