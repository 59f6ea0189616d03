"""One line a request, and the id by which it is found."""

import json
import logging
import re
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from app.core.errors import EngineFailed
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.telemetry.logs import JsonFormatter
from app.telemetry.setup import start
from harness.fake_model import fake_model
from tests.e2e.engines import eventually
from tests.e2e.fake_site import FakeSite, fake_site

SOON_S = 10.0
TRACE = "0af7651916cd43dd8448eb211c80319c"
SECRET = "tell nobody"


class Lines(logging.Handler):
    """The lines of the access log, as a program reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))

    def of(self, request_id: str) -> dict[str, object]:
        """The one line of a request, which is written when the client has its answer already."""
        (line,) = eventually(lambda: self._read(request_id), SOON_S)
        return line

    def _read(self, request_id: str) -> list[dict[str, object]]:
        read = (json.loads(text) for text in list(self.texts))
        return [line for line in read if line["request_id"] == request_id]


@contextmanager
def listening() -> Generator[Lines]:
    logger, lines = logging.getLogger("caravan.access"), Lines()
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)


@pytest.fixture
def lines() -> Generator[Lines]:
    with listening() as heard:
        yield heard


@pytest.fixture
def site() -> Generator[FakeSite]:
    script = {"fail": Reply((" a", " b"), error=EngineFailed("it broke"), error_after=1)}
    with fake_site(fake_model("m"), engine=lambda: FakeEngine(script)) as running:
        yield running


def chat(site: FakeSite, content: str = SECRET, **headers: str) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    return site.client.post("/api/chat", json=body, headers=headers)


@pytest.mark.parametrize("given", ["abc-123", "0af7651916cd43dd8448eb211c80319c", "A" * 128])
def test_the_client_may_name_its_request(site: FakeSite, lines: Lines, given: str) -> None:
    answer = chat(site, **{"x-request-id": given})
    assert answer.headers["x-request-id"] == given
    assert lines.of(given)["status"] == 200


@pytest.mark.parametrize("given", ["", "two words", "A" * 129, 'quo"te', "caf\u00e9"])
def test_a_name_that_is_not_sane_is_replaced(site: FakeSite, given: str) -> None:
    answer = site.client.get("/api/tags", headers=[(b"x-request-id", given.encode())])
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/api/chat", 405), ("POST", "/api/tags/", 404), ("HEAD", "/", 200)],
)
def test_every_answer_has_an_id_of_its_own(site: FakeSite, method: str, path: str, status: int) -> None:
    ids = {site.client.request(method, path).headers["x-request-id"] for _ in range(3)}
    assert site.client.request(method, path).status_code == status
    assert len(ids) == 3


def test_the_line_of_a_good_answer(site: FakeSite, lines: Lines) -> None:
    parent = f"00-{TRACE}-b7ad6b7169203331-01"
    answer = chat(site, traceparent=parent, authorization="Bearer sk-very-secret")
    line = lines.of(answer.headers["x-request-id"])
    expected = {
        "level": "info",
        "logger": "caravan.access",
        "trace_id": TRACE,
        "method": "POST",
        "route": "/api/chat",
        "operation": "chat",
        "model": "m:latest",
        "stream": True,
        "status": 200,
        "outcome": "ok",
        "output_tokens": 5,
        "finish_reason": "stop",
    }
    assert line | expected == line
    for name in ("duration_s", "first_token_s", "prefill_s", "decode_s", "prompt_tokens"):
        assert line[name], name
    assert not any(SECRET in text or "sk-very-secret" in text for text in lines.texts)


def test_a_failure_after_the_stream_began(site: FakeSite, lines: Lines) -> None:
    line = lines.of(chat(site, "fail").headers["x-request-id"])
    assert (line["status"], line["outcome"], line["level"]) == (200, "error", "warning")
    assert (line["error"], line["error_type"], line["output_tokens"]) == ("it broke", "EngineFailed", 1)


@pytest.mark.parametrize(
    ("route", "asked"),
    [
        ("chat", {}),
        ("generate", {}),
        ("chat", {"keep_alive": 0}),
        ("generate", {"prompt": "x", "_debug_render_only": True}),
        ("embed", {"input": []}),
    ],
)
def test_what_only_loads_unloads_or_renders_is_no_inference_unless_it_fails(
    site: FakeSite, lines: Lines, route: str, asked: dict[str, Any]
) -> None:
    done = site.client.post(f"/api/{route}", json={"model": "m", **asked})
    assert done.status_code == 200
    assert "operation" not in lines.of(done.headers["x-request-id"])
    failed = site.client.post(f"/api/{route}", json={"model": "nobody", **asked})
    assert lines.of(failed.headers["x-request-id"])["operation"]


def test_a_refusal(site: FakeSite, lines: Lines) -> None:
    answer = site.client.post("/api/chat", json={"model": "nobody"})
    line = lines.of(answer.headers["x-request-id"])
    assert (line["status"], line["outcome"], line["level"]) == (404, "error", "info")
    assert line["error"] == answer.json()["error"]
    assert "model" not in line


def test_a_client_that_leaves(site: FakeSite, lines: Lines) -> None:
    head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: gone\r\nContent-Length: 99\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", site.port), timeout=SOON_S) as client:
        client.sendall(head.encode())
        eventually(lambda: site.client.get("/api/ps").status_code == 200, SOON_S)
    line = lines.of("gone")
    assert line["outcome"] == "cancelled"
    assert "status" not in line


def test_probes_are_not_told(site: FakeSite, lines: Lines) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert site.client.get(path, headers={"x-request-id": "probe"}).status_code == 200
    after = site.client.get("/api/tags").headers["x-request-id"]
    assert lines.of(after)
    assert not any("probe" in text for text in lines.texts)


def test_content_is_told_where_it_is_switched_on(lines: Lines) -> None:
    with fake_site(fake_model("m"), telemetry=start(keeps_content=True)) as site:
        line = lines.of(chat(site).headers["x-request-id"])
    assert line["prompt"] == [{"role": "user", "parts": [{"type": "text", "content": SECRET}]}]
    assert line["answer"] == "Hello from the scripted engine."
