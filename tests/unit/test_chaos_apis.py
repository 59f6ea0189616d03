"""The judge of soak, chaos and storm on answers of OpenAI's and Anthropic's APIs, as a server sends them."""

import json
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from app.core.events import Content, Event, Thinking, ToolCall
from app.engine.base import Prompt, Run
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from chaos.answers import Answer, Outcome, Said
from chaos.api_requests import PATHS, asked, cases
from chaos.requests import Judge, Request, mistakes
from harness.fake_model import EVERYTHING, fake_model
from harness.models.catalogue import Case, user
from tests.e2e.fake_site import FakeSite, fake_site

CASE = Case("greeting", (user("Hello"),), reply="", content="")
CALLED: list[Event] = [
    Thinking("I look."),
    Content("So."),
    ToolCall(0, "call_1", "weather", {"city": "Paris"}),
]
SAID = Said("So.", "I look.", (("weather", json.dumps({"city": "Paris"})),))
EITHER = pytest.mark.parametrize("stream", [True, False])
EACH = pytest.mark.parametrize("path", PATHS)


def script(_: Prompt, __: Run) -> Reply:
    return Reply([f" {at}" for at in range(len(CALLED))], [[event] for event in CALLED])


@pytest.fixture(scope="module")
def site() -> Iterator[FakeSite]:
    with fake_site(fake_model("tool", *EVERYTHING), engine=lambda: FakeEngine(script)) as made:
        yield made


def answered(site: FakeSite, request: Request) -> Answer:
    got: httpx.Response = site.client.request(request.method, request.path, content=request.content)
    return Answer(got.status_code, got.headers.get("content-type", ""), got.content, path=request.path)


def request(path: str, *, stream: bool, said: Said = SAID) -> Request:
    body = asked(path, CASE, think=True, stream=stream)
    return Request(path, path, json.dumps(body).encode(), said=said)


def outcome(request: Request, answer: Answer) -> Outcome:
    return Judge().verdict(request, answer).outcome


@EACH
@EITHER
def test_a_whole_answer(path: str, stream: bool, site: FakeSite) -> None:
    wanted = request(path, stream=stream)
    verdict = Judge().verdict(wanted, answered(site, wanted))
    assert verdict.outcome is Outcome.WHOLE, verdict.reason


@EACH
@EITHER
def test_what_the_model_did_not_say_is_lost(path: str, stream: bool, site: FakeSite) -> None:
    for other in (Said("So!", *SAID_REST), Said("So.", "I do.", SAID.calls), Said("So.", "I look.")):
        wanted = request(path, stream=stream, said=other)
        assert outcome(wanted, answered(site, wanted)) is Outcome.LOST


SAID_REST = (SAID.thinking, SAID.calls)


@EACH
def test_a_stream_without_its_end_is_lost(path: str, site: FakeSite) -> None:
    wanted = request(path, stream=True)
    answer = answered(site, wanted)
    events = answer.body.split(b"\n\n")[:-1]
    for kept in range(len(events)):
        cut = replace(answer, body=b"".join(each + b"\n\n" for each in events[:kept]))
        assert outcome(wanted, cut) is Outcome.LOST, kept
    assert outcome(wanted, replace(answer, body=answer.body[:-3])) is Outcome.LOST


ERRORS = {
    "/v1/chat/completions": {"error": {"message": "gone", "type": "api_error", "param": None, "code": None}},
    "/v1/messages": {"type": "error", "error": {"type": "api_error", "message": "gone"}, "request_id": "r"},
}


@pytest.mark.parametrize("path", ERRORS)
def test_a_clear_failure_is_one_in_the_words_of_the_api(path: str, site: FakeSite) -> None:
    wanted = request(path, stream=True)
    begun = answered(site, wanted).body.split(b"\n\n")[:3]
    for of, error in ERRORS.items():
        told = Outcome.FAILED if of == path else Outcome.LOST
        text = json.dumps(error).encode()
        assert outcome(wanted, Answer(500, "application/json", text, path=path)) is told
        broken = b"\n\n".join([*begun, b"event: error\ndata: " + text, b""])
        assert outcome(wanted, Answer(200, "text/event-stream", broken, path=path)) is told
    assert outcome(wanted, Answer(503, "application/json", b'{"error":"gone"}', path=path)) is Outcome.LOST


def test_a_response_that_failed_says_so(site: FakeSite) -> None:
    wanted = request("/v1/responses", stream=True)
    answer = answered(site, wanted)
    first = answer.body.split(b"\n\n")[0]
    failed = {"type": "response.failed", "sequence_number": 1, "response": {"error": {"message": "gone"}}}
    body = first + b"\n\nevent: response.failed\ndata: " + json.dumps(failed).encode() + b"\n\n"
    verdict = Judge().verdict(wanted, replace(answer, body=body))
    assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, "gone")


def test_mistakes_are_refused_in_the_words_of_the_api(site: FakeSite) -> None:
    wrong = [each for each in mistakes() if each.path in PATHS]
    assert len(wrong) == 3 * len(PATHS)
    for each in wrong:
        answer = answered(site, each)
        verdict = Judge().verdict(each, answer)
        assert verdict.outcome is Outcome.WHOLE, (each.path, each.kind, verdict.reason)
        assert outcome(each, replace(answer, body=b'{"error":"no"}')) is Outcome.LOST


def test_transcripts_are_asked_by_every_api() -> None:
    names = {case.name for case in cases()}
    assert {"hello", "system", "turns", "call"} <= names
    assert "prefill" not in names
