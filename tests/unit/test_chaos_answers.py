"""The judge of soak, chaos and storm: it must see every way in which an answer can be lost."""

import json
from typing import Any

import pytest

from chaos.answers import NDJSON, Answer, Outcome, Said, Verdict
from chaos.requests import Judge, Request, refused, vectors

SAID = Said("Hello! How", "A greeting.")
LAST: dict[str, Any] = {"done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 3}
CHAT = Request("chat", "/api/chat", b"{}", said=SAID)


def part(content: Any = "", thinking: Any = "", **more: Any) -> dict[str, Any]:
    return {"message": {"content": content, "thinking": thinking}, "done": False} | more


STREAM = [part(thinking="A greeting."), part("Hello!"), part(" How"), part(**LAST)]
ERROR = {"error": "the model runner has unexpectedly stopped"}


def stream(*parts: Any, end: str = "\n") -> Answer:
    return Answer(200, NDJSON, ("\n".join(map(json.dumps, parts)) + end).encode())


def whole(status: int = 200, **fields: Any) -> Answer:
    return Answer(status, "application/json; charset=utf-8", json.dumps(fields).encode())


def outcome(answer: Answer, request: Request = CHAT) -> Outcome:
    return Judge().verdict(request, answer).outcome


def test_a_whole_answer() -> None:
    assert Judge().verdict(CHAT, stream(*STREAM)) == Verdict(Outcome.WHOLE)
    assert outcome(whole(**part("Hello! How", "A greeting.", **LAST))) is Outcome.WHOLE


@pytest.mark.parametrize(
    "answer",
    [
        whole(500, **ERROR),
        whole(503, **ERROR),
        whole(429, **ERROR),
        stream(*STREAM[:2], ERROR),
        stream(ERROR),
    ],
)
def test_a_clear_failure(answer: Answer) -> None:
    assert outcome(answer) is Outcome.FAILED


@pytest.mark.parametrize(
    "answer",
    [
        stream(*STREAM[:3]),
        stream(*STREAM, end=""),
        stream(*STREAM, ERROR),
        stream(*STREAM[:2], LAST | part("?", **LAST), STREAM[3]),
        stream(STREAM[0], STREAM[2], STREAM[1], STREAM[3]),
        stream(*STREAM[:2], STREAM[3]),
        stream(*STREAM[:2], part(" Who"), STREAM[3]),
        stream(part("Other"), ERROR),
        stream(*STREAM[:3], part(**LAST | {"eval_count": 1})),
        stream(*STREAM[:3], part(**LAST | {"eval_count": 0})),
        stream(*STREAM[:3], {"done": True}),
        Answer(200, NDJSON, b""),
        Answer(200, NDJSON, b'{"mess'),
        Answer(200, NDJSON, b"[]\n"),
        whole(),
        whole(**part("", "A greeting.", **LAST)),
        whole(**part("Hello! How", "A greeting.")),
        whole(500),
        whole(500, error=""),
        Answer(500, "text/plain", b"Internal Server Error"),
        whole(404, error="model 'tool' not found"),
        Answer(fault="no end within 90 s"),
        Answer(200, NDJSON, stream(*STREAM).body, fault="the connection broke"),
    ],
    ids=lambda answer: answer.body[-60:].decode() or answer.fault or "empty",
)
def test_what_is_lost(answer: Answer) -> None:
    assert outcome(answer) is Outcome.LOST


def test_counts_that_change_from_one_reply_to_the_next() -> None:
    judge = Judge()
    assert judge.verdict(CHAT, stream(*STREAM)).outcome is Outcome.WHOLE
    assert judge.verdict(CHAT, stream(*STREAM)).outcome is Outcome.WHOLE
    changed = stream(*STREAM[:3], part(**LAST | {"eval_count": 4}))
    assert judge.verdict(CHAT, changed).reason == "counts of (9, 4), earlier (9, 3)"


def test_a_client_that_left_has_lost_nothing() -> None:
    assert outcome(Answer(left=True)) is Outcome.LEFT


def test_a_refusal_that_should_be() -> None:
    bad = Request("bad", "/api/chat", check=refused(404))
    assert outcome(whole(404, error="model 'x' not found"), bad) is Outcome.WHOLE
    assert outcome(whole(400, error="no"), bad) is Outcome.LOST
    assert outcome(whole(404), bad) is Outcome.LOST


@pytest.mark.parametrize(
    ("found", "right"), [([[1.0, 0.0]], True), ([[0.9, 0.0]], False), ([], False), ([[1.0, 0.0]] * 2, False)]
)
def test_vectors(found: list[list[float]], right: bool) -> None:
    embed = Request("embed", "/api/embed", check=vectors([[1.0, 0.0]]))
    assert (outcome(whole(embeddings=found), embed) is Outcome.WHOLE) is right
