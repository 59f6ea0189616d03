"""`EventResponse` behind a real uvicorn, and in process where the server's side shows more."""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.ollama.encoder import GenerateEncoder
from app.api.stream import EventResponse, Events, RawSend
from app.core.errors import EngineDied, InvalidRequest
from app.core.events import Content, Done, Event, Timings, ToolCall
from tests.e2e._site import WAIT_S, Probe, Site, running_site

DONE = Done("stop", 1, 1, 1, 1, Timings(1, 1))


@pytest.fixture(scope="module", params=["httptools", "h11"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_site(request.param) as site:
        yield site


def read_until(client: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        piece = client.recv(65536)
        assert piece, data
        data += piece
    return data


@pytest.mark.point(94)
@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_first_token_closes_the_events(site: Site, stream: bool) -> None:
    probe = Probe()
    site.scripts["early"] = probe.hang
    with site.connect("early", stream=stream):
        assert probe.started.wait(WAIT_S)
        assert not probe.closed.is_set()
    assert probe.closed.wait(WAIT_S)


@pytest.mark.point(94)
def test_leaving_in_the_middle_closes_the_events(site: Site) -> None:
    probe = Probe()
    site.scripts["middle"] = lambda: probe.hang(Content("a"), Content("b"))
    with site.connect("middle", stream=True) as client:
        read_until(client, b'"content":"b"')
        assert not probe.closed.is_set()
    assert probe.closed.wait(WAIT_S)


@pytest.mark.point(94)
def test_leaving_a_whole_answer_in_the_middle_closes_the_events(site: Site) -> None:
    probe, half = Probe(), threading.Event()

    async def events() -> Events:
        async for event in probe.hang(Content("a")):
            yield event
            half.set()

    site.scripts["half"] = events
    with site.connect("half", stream=False):
        assert half.wait(WAIT_S)
    assert probe.closed.wait(WAIT_S)


def test_a_client_that_does_not_read_holds_the_events_back_and_loses_no_line(site: Site) -> None:
    """The events never wait by themselves: another request is served only if `send` made them."""
    lines, text = 10_000, "x" * 4000
    probe = Probe()
    site.scripts["slow"] = lambda: probe.finish(*(Content(f"{n} {text}") for n in range(lines)), DONE)
    site.scripts["other"] = lambda: Probe().finish(Content("a"), DONE)
    with httpx.stream("POST", site.url("slow"), params={"stream": True}, timeout=WAIT_S) as response:
        assert probe.started.wait(WAIT_S)
        assert site.post("other", stream=True).is_success
        assert not probe.closed.is_set()
        told = [json.loads(line) for line in response.iter_lines()]
    assert probe.closed.is_set()
    assert [line["message"]["content"].split()[0] for line in told[:-1]] == [str(n) for n in range(lines)]
    assert [line["done"] for line in told] == [False] * lines + [True]


def test_a_client_that_leaves_without_reading_closes_the_events(site: Site) -> None:
    probe = Probe()
    site.scripts["stuck"] = lambda: probe.finish(*(Content("x" * 4000) for _ in range(10_000)))
    site.scripts["other"] = lambda: Probe().finish(DONE)
    with site.connect("stuck", stream=True, receive_buffer=4096):
        assert probe.started.wait(WAIT_S)
        assert site.post("other", stream=True).is_success
        assert not probe.closed.is_set()
    assert probe.closed.wait(WAIT_S)


@pytest.mark.point(65, 68)
@pytest.mark.row("B1")
def test_the_two_forms_of_an_answer(site: Site) -> None:
    site.scripts["m"] = lambda: Probe().finish(Content("a"), Content("b"), DONE)
    streamed = site.post("m", stream=True)
    assert streamed.headers["content-type"] == "application/x-ndjson"
    assert streamed.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in streamed.headers
    assert streamed.text.endswith("}\n")
    assert [json.loads(line)["message"]["content"] for line in streamed.text.splitlines()] == ["a", "b", ""]
    whole = site.post("m", stream=False)
    assert whole.headers["content-type"] == "application/json; charset=utf-8"
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert whole.content.endswith(b"}")
    assert whole.json()["message"]["content"] == "ab"


@pytest.mark.point(96)
@pytest.mark.parametrize(
    ("error", "status", "text", "streamed_type"),
    [
        (EngineDied("gone"), 500, "gone", "application/json"),
        (InvalidRequest("bad"), 400, "bad", "application/json; charset=utf-8"),
        (ZeroDivisionError("secret"), 500, "internal server error", "application/json"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_before_the_first_line_has_its_status(
    site: Site, error: Exception, status: int, text: str, streamed_type: str, stream: bool
) -> None:
    site.scripts["m"] = lambda: Probe().fail(error)
    answer = site.post("m", stream=stream)
    assert (answer.status_code, answer.json()) == (status, {"error": text})
    assert answer.headers["content-type"] == (streamed_type if stream else "application/json; charset=utf-8")
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.point(95)
@pytest.mark.row("B8")
@pytest.mark.parametrize(
    ("error", "text"), [(EngineDied("gone"), "gone"), (ZeroDivisionError("secret"), "internal server error")]
)
def test_a_failure_after_the_first_line_is_the_last_line(site: Site, error: Exception, text: str) -> None:
    site.scripts["m"] = lambda: Probe().fail(error, Content("a"))
    answer = site.post("m", stream=True)
    assert answer.status_code == 200
    first, last = answer.text.splitlines()
    assert json.loads(first)["message"]["content"] == "a"
    assert last == json.dumps({"error": text}, separators=(",", ":"))
    assert answer.text.endswith("\n")


def test_a_whole_answer_that_fails_half_way_has_its_status(site: Site) -> None:
    site.scripts["m"] = lambda: Probe().fail(EngineDied("gone"), Content("a"))
    answer = site.post("m", stream=False)
    assert (answer.status_code, answer.json()) == (500, {"error": "gone"})


def test_only_the_unexpected_is_logged_and_only_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    error = ZeroDivisionError("secret")
    for failure in (EngineDied("gone"), InvalidRequest("bad"), error):
        site.scripts["m"] = lambda failure=failure: Probe().fail(failure, Content("a"))
        site.post("m", stream=True)
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_connection_serves_one_answer_after_another(site: Site) -> None:
    site.scripts["m"] = lambda: Probe().finish(Content("a"), DONE)
    ports = set[int]()
    with httpx.Client(timeout=WAIT_S) as client:
        for stream in (True, False, True):
            answer = client.post(site.url("m"), params={"stream": stream})
            assert '"done":true' in answer.text
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr")[1])
    assert len(ports) == 1


async def test_many_streams_at_once_are_not_mixed_up(site: Site) -> None:
    clients, tokens = 64, 20
    meeting = asyncio.Barrier(clients)

    async def events(name: str) -> Events:
        for n in range(tokens):
            await meeting.wait()
            yield [Content(f"{name}:{n}")]
        yield [DONE]

    names = [f"m{n}" for n in range(clients)]
    for name in names:
        site.scripts[name] = lambda name=name: events(name)
    async with (
        asyncio.timeout(WAIT_S),
        httpx.AsyncClient(limits=httpx.Limits(max_connections=clients), timeout=WAIT_S) as client,
    ):
        answers = await asyncio.gather(*(client.post(f"{site.url(name)}?stream=true") for name in names))
    for name, answer in zip(names, answers, strict=True):
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert {line["model"] for line in lines} == {name}
        assert [line["message"]["content"] for line in lines[:-1]] == [f"{name}:{n}" for n in range(tokens)]
        assert lines[-1]["done"] is True


@dataclass
class Recorder:
    """The server's side of one request in process."""

    incoming: list[str] = field(default_factory=list[str])
    messages: list[Message] = field(default_factory=list[Message])
    fail_at: int | None = None

    async def receive(self) -> Message:
        if self.incoming:
            return {"type": self.incoming.pop(0)}
        await asyncio.Event().wait()
        raise AssertionError("an event that nobody sets")

    async def send(self, message: Message) -> None:
        if len(self.messages) == self.fail_at:
            raise OSError("the client is gone")
        self.messages.append(message)

    async def run(self, response: EventResponse, extensions: dict[str, Any] | None = None) -> None:
        await response({"type": "http", "extensions": extensions}, self.receive, self.send)


def respond(events: Events, *, stream: bool = True) -> EventResponse:
    return EventResponse(events, GenerateEncoder("M"), stream=stream)


async def test_events_of_one_engine_output_leave_in_one_frame() -> None:
    server = Recorder()
    calls: list[Event] = [Content("b"), ToolCall(0, "", "f", {}), DONE]
    await server.run(respond(Probe().finish(Content("a"), [], calls)))
    assert [message.get("body", b"").count(b"\n") for message in server.messages] == [0, 1, 2, 0]
    assert [message.get("more_body") for message in server.messages] == [None, True, True, False]


async def test_frames_go_raw_and_the_rest_through_the_layers() -> None:
    server, layers = Recorder(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def layer(message: Message) -> None:
            layers.append(message["type"])
            await send(message)

        await respond(Probe().finish(Content("a"), Content("b"), DONE))(scope, receive, layer)

    await RawSend(app)({"type": "http", "extensions": {"x": {}}}, server.receive, server.send)
    assert layers == ["http.response.start", "http.response.body"]
    assert [message["type"] for message in server.messages] == [layers[0], *[layers[1]] * 4]


@pytest.mark.parametrize("fail_at", [0, 1, 2])
async def test_a_send_that_fails_closes_the_events(fail_at: int, caplog: pytest.LogCaptureFixture) -> None:
    probe, server = Probe(), Recorder(fail_at=fail_at)
    await server.run(respond(probe.hang(Content("a"), Content("b"))))
    assert probe.closed.is_set()
    assert len(server.messages) == fail_at
    assert caplog.records == []


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_the_request_closes_the_events_and_is_not_swallowed(stream: bool) -> None:
    started, probe = asyncio.Event(), Probe()

    async def events() -> Events:
        started.set()
        async with aclosing(probe.hang()) as inner:
            async for event in inner:
                yield event

    others = asyncio.all_tasks()
    request = asyncio.create_task(Recorder().run(respond(events(), stream=stream)))
    async with asyncio.timeout(WAIT_S):
        await started.wait()
        helpers = asyncio.all_tasks() - others - {request}
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.wait(helpers)
    assert [task.cancelled() for task in helpers] == [True, True]
    assert probe.closed.is_set()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_left_is_answered_with_silence(stream: bool) -> None:
    probe, server = Probe(), Recorder(incoming=["http.request", "http.disconnect"])
    task = asyncio.current_task()
    assert task is not None
    async with asyncio.timeout(WAIT_S):
        await server.run(respond(probe.hang(), stream=stream))
    assert probe.closed.is_set()
    assert server.messages == []
    assert task.cancelling() == 0
