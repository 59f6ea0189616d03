"""The requests that traffic is made of, and what each must be answered."""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from chaos import api_requests
from chaos.answers import (
    Answer,
    Broken,
    Outcome,
    Reply,
    Said,
    Verdict,
    complaints,
    document,
    is_part,
)
from chaos.apis import error_text, failure, reply
from harness.models.catalogue import PERSON, QWEN3, Case, user

Body: TypeAlias = dict[str, Any]
Where: TypeAlias = Literal["in the body", "before the first token", "in the stream"]
Check: TypeAlias = Callable[[Answer], str]
"""What is wrong with an answer that arrived whole; empty if nothing is."""

GREEDY: Body = {"temperature": 0}
MAX_BODY_BYTES = 1 << 20
"""What the server under test is told."""

_THINKS = {True: "think", False: "plain"}


@dataclass(frozen=True, slots=True)
class Request:
    """`leaves` is where its client goes away; `said` is what the model says where that is known."""

    kind: str
    path: str
    content: bytes = b""
    method: str = "POST"
    check: Check = lambda _: ""
    said: Said | None = None
    leaves: Where | None = None


class Judge:
    """Says what came of a request. Greedy replies to one request must have the same counts every time."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, bytes], tuple[int, int]] = {}

    def verdict(self, request: Request, answer: Answer) -> Verdict:
        if answer.left:
            return Verdict(Outcome.LEFT)
        if answer.fault:
            return Verdict(Outcome.LOST, answer.fault)
        try:
            if failed := failure(answer):
                return self._failed(request, answer, failed)
            wrong = request.check(answer) or self._wrong_reply(request, answer)
        except Broken as error:
            wrong = str(error)
        return Verdict(Outcome.LOST, wrong) if wrong else Verdict(Outcome.WHOLE)

    def _failed(self, request: Request, answer: Answer, failed: str) -> Verdict:
        if request.said is not None and answer.status == 200 and not is_part(reply(answer), request.said):
            return Verdict(Outcome.LOST, f"other text before the error: {failed}")
        return Verdict(Outcome.FAILED, failed)

    def _wrong_reply(self, request: Request, answer: Answer) -> str:
        if request.said is None:
            return ""
        if answer.status != 200:
            return f"{answer.status} {answer.body[:120]!r}"
        told = reply(answer)
        wrong = "; ".join(complaints(told, request.said))
        return wrong or self._other_counts(request, told)

    def _other_counts(self, request: Request, told: Reply) -> str:
        known = self._counts.setdefault((request.path, request.content), told.counts)
        return "" if told.counts == known else f"counts of {told.counts}, earlier {known}"


def refused(status: int) -> Check:
    """A refusal with that status, in the API's form."""

    def check(answer: Answer) -> str:
        if answer.status != status:
            return f"{answer.status} instead of {status}: {answer.body[:80]!r}"
        return "" if error_text(answer) else "a refusal without a text in its API's form"

    return check


def plain(status: int) -> Check:
    """An answer of the router, which is text."""
    return lambda answer: "" if answer.status == status and answer.body else f"{answer.status}"


def holds(key: str, *names: str) -> Check:
    """A document whose `key` lists at least these models."""

    def check(answer: Answer) -> str:
        if answer.status != 200:
            return f"{answer.status}"
        rows = {row.get("name") or row["id"] for row in document(answer)[key]}
        missing = {f"{name}:latest" for name in names} - rows
        return f"{key} lacks {missing}" if missing else ""

    return check


def has(*keys: str) -> Check:
    def check(answer: Answer) -> str:
        missing = [key for key in keys if key not in document(answer)]
        return f"{answer.status}, lacks {missing}" if missing or answer.status != 200 else ""

    return check


def complete(least: int, most: int) -> Check:
    """A reply of that many tokens, whatever it says."""

    def check(answer: Answer) -> str:
        if answer.status != 200:
            return f"{answer.status} {answer.body[:80]!r}"
        told = reply(answer)
        right = least <= told.counts[1] <= most and told.reason in ("stop", "length")
        return "" if right else f"{told.counts[1]} tokens, {told.reason}"

    return check


def vectors(wanted: Sequence[Sequence[float]]) -> Check:
    """As many vectors as texts, each the same as when the server was at rest."""

    def check(answer: Answer) -> str:
        if answer.status != 200:
            return f"{answer.status} {answer.body[:80]!r}"
        found = document(answer)["embeddings"]
        if len(found) != len(wanted):
            return f"{len(found)} vectors for {len(wanted)} texts"
        far = max(
            abs(a - b)
            for got, right in zip(found, wanted, strict=True)
            for a, b in zip(got, right, strict=True)
        )
        return f"a vector is {far:.2g} off" if far > 1e-3 else ""

    return check


def _request(kind: str, path: str, body: Body, **more: Any) -> Request:
    return Request(kind, path, json.dumps(body).encode(), **more)


def chats() -> Iterable[Request]:
    """Every transcript of the model, with and without thinking, streamed and whole."""
    for case in QWEN3:
        for think in (False,) if case.prefilled else (False, True):
            for stream in (True, False):
                body = chat_body(case, think=think, stream=stream)
                kind = f"chat, {'tools, ' if case.tools else ''}{'stream' if stream else 'whole'}"
                yield _request(kind, "/api/chat", body, said=said(case, think=think))


def chats_by_other_apis() -> Iterable[Request]:
    for path, case, think, stream in api_requests.every():
        body = api_requests.asked(path, case, think=think, stream=stream)
        kind = f"{path}, {'tools, ' if case.tools else ''}{'stream' if stream else 'whole'}"
        yield _request(kind, path, body, said=said(case, think=think))


def chat_body(case: Case, *, think: bool, stream: bool) -> Body:
    body: Body = {
        "model": "tool",
        "messages": list(case.messages),
        "think": think,
        "stream": stream,
        "options": GREEDY,
    }
    return body | {"tools": list(case.tools)} if case.tools else body


def said(case: Case, *, think: bool) -> Said:
    calls = tuple((call.name, json.dumps(call.arguments, sort_keys=True)) for call in case.calls)
    return Said(case.content, case.thinking if think else "", calls)


def greeting() -> Request:
    """A good request with a short answer."""
    return next(iter(chats()))


def generations() -> Iterable[Request]:
    for case in QWEN3:
        question, *more = case.messages
        if more or case.tools:
            continue
        for stream in (True, False):
            body: Body = {
                "model": "tool",
                "prompt": question["content"],
                "think": False,
                "stream": stream,
                "options": GREEDY,
            }
            kind = f"generate, {'stream' if stream else 'whole'}"
            yield _request(kind, "/api/generate", body, said=said(case, think=False))


def formats() -> Iterable[Request]:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    for form in ("json", schema):
        body: Body = {
            "model": "tool",
            "messages": [user("Give me a person as json")],
            "format": form,
            "think": False,
            "options": GREEDY,
        }
        yield _request("chat, format", "/api/chat", body, said=Said(PERSON))


def long_prompts() -> Iterable[Request]:
    for words in (1000, 8000):
        body: Body = {"model": "tool", "prompt": "Hello " * words, "options": {**GREEDY, "num_predict": 8}}
        yield _request("generate, long prompt", "/api/generate", body, check=complete(1, 8))


def alive(answer: Answer) -> str:
    return "" if answer.status == 200 else f"{answer.status}"


def described() -> Iterable[Request]:
    for method in ("GET", "HEAD"):
        yield Request("alive", "/", method=method, check=alive)
    yield Request("tags", "/api/tags", method="GET", check=holds("models", "tool", "emb"))
    yield Request("models", "/v1/models", method="GET", check=holds("data", "tool", "emb"))
    yield Request("ps", "/api/ps", method="GET", check=holds("models"))
    yield Request("version", "/api/version", method="GET", check=has("version"))
    yield _request("show", "/api/show", {"model": "tool"}, check=has("details", "model_info", "capabilities"))


def embeds(known: dict[str, Sequence[float]]) -> Iterable[Request]:
    texts = list(known)
    for asked in (texts[:1], texts[:3], texts):
        body = {"model": "emb", "input": asked}
        yield _request("embed", "/api/embed", body, check=vectors([known[text] for text in asked]))


EMBEDDED = tuple(f"{at} llamas in a row" for at in range(24))


def mistakes() -> Iterable[Request]:
    hello = [user("Hello")]
    bad = {"type": "object", "properties": 5}
    for path in ("/api/chat", "/api/generate", "/api/embed", "/api/show"):
        yield Request("bad: no JSON", path, b'{"model": "tool", ', check=refused(400))
    yield _request("bad: no such model", "/api/chat", {"model": "nosuch"}, check=refused(404))
    yield _request("bad: no such model", "/api/show", {"model": "nosuch"}, check=refused(404))
    yield _request("bad: wrong type", "/api/chat", {"model": "tool", "messages": "x"}, check=refused(400))
    yield _request("bad: wrong type", "/api/generate", {"model": 5}, check=refused(400))
    yield _request(
        "bad: schema", "/api/chat", {"model": "tool", "messages": hello, "format": bad}, check=refused(400)
    )
    yield _request("bad: cannot embed", "/api/embed", {"model": "tool", "input": "x"}, check=refused(400))
    for path in api_requests.PATHS:
        turn = {"input" if "responses" in path else "messages": hello, "max_tokens": 5}
        yield Request("bad: no JSON", path, b'{"model": "tool", ', check=refused(400))
        yield _request("bad: no such model", path, {"model": "nosuch", **turn}, check=refused(404))
        yield _request("bad: wrong type", path, {"model": 5}, check=refused(400))
    yield Request("bad: method", "/api/chat", method="GET", check=plain(405))
    yield Request("bad: path", "/api/nope", check=plain(404))


def oversized() -> Iterable[Request]:
    huge = {"model": "tool", "prompt": "x" * MAX_BODY_BYTES}
    long = {"model": "tool", "prompt": "Hello " * 8000, "truncate": False}
    for path in ("/api/generate", *api_requests.PATHS):
        yield _request("oversized: body", path, huge, check=refused(413))
    yield _request("oversized: prompt", "/api/generate", long, check=refused(400))
    yield _request(
        "oversized: text",
        "/api/embed",
        {"model": "emb", "input": "x " * 2000, "truncate": False},
        check=refused(400),
    )


def leavers() -> Iterable[Request]:
    """Requests whose clients go away."""
    story = next(case for case in QWEN3 if case.name == "story")
    texts = json.dumps({"model": "emb", "input": list(EMBEDDED) * 10}).encode()
    stream = json.dumps(chat_body(story, think=False, stream=True)).encode()
    whole = json.dumps(chat_body(story, think=True, stream=False)).encode()
    prompt = json.dumps({"model": "tool", "prompt": "Hello " * 3000, "options": GREEDY}).encode()
    for path, body in (("/api/chat", stream), ("/api/generate", prompt), ("/api/embed", texts)):
        yield Request(f"aborted: {path}, in the body", path, body, leaves="in the body")
        yield Request(f"aborted: {path}, unanswered", path, body, leaves="before the first token")
    for path in api_requests.PATHS:
        body = json.dumps(api_requests.asked(path, story, think=False, stream=True)).encode()
        yield Request(f"aborted: {path}, unanswered", path, body, leaves="before the first token")
        yield Request(f"aborted: {path}, in the stream", path, body, leaves="in the stream")
    yield Request("aborted: /api/chat, whole", "/api/chat", whole, leaves="before the first token")
    for path, body in (("/api/chat", stream), ("/api/generate", prompt)):
        yield Request(f"aborted: {path}, in the stream", path, body, leaves="in the stream")


class Mix:
    """Draws requests: mostly good ones, every group in its share."""

    def __init__(self, vectors_of: dict[str, Sequence[float]], dice: random.Random) -> None:
        self._dice = dice
        shares = (
            (24, chats()),
            (16, chats_by_other_apis()),
            (12, generations()),
            (6, formats()),
            (4, long_prompts()),
            (8, embeds(vectors_of)),
            (8, described()),
            (8, mistakes()),
            (4, oversized()),
            (10, leavers()),
        )
        self._weights = [share for share, _ in shares]
        self._groups = [list(group) for _, group in shares]

    def draw(self) -> Request:
        (group,) = self._dice.choices(self._groups, self._weights)
        return self._dice.choice(group)
