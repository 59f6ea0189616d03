"""What a log line says of a request and of anything else, as JSON and for people."""

import json
import logging
import sys
from typing import Any

import pytest

from app.core.context import Caller, RequestContext
from app.core.request import ChatPrompt, CompletionPrompt, Message, PastToolCall
from app.telemetry import access, logs
from app.telemetry.content import messages_of
from app.telemetry.logs import FIELDS, JsonFormatter, TextFormatter
from tests.contexts import context

MS = 1_000_000
DONE: dict[str, Any] = {
    "request_id": "r1",
    "method": "POST",
    "path": "/api/chat",
    "route": "/api/chat",
    "operation": "chat",
    "model": "m:latest",
    "status": 200,
    "answered": True,
    "duration_ns": 1500 * MS,
}


def record(message: str, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("caravan", logging.INFO, "f.py", 1, "%s", (message,), None)
    made.created = 1795629600.25
    setattr(made, FIELDS, fields)
    return made


def ctx(**changes: Any) -> RequestContext:
    return context(**(DONE | changes))


def test_a_json_line_has_the_time_in_utc_and_the_fields() -> None:
    assert json.loads(JsonFormatter().format(record("hello", model="m"))) == {
        "timestamp": "2026-11-25T18:00:00.250Z",
        "level": "info",
        "logger": "caravan",
        "message": "hello",
        "model": "m",
    }


def test_a_json_line_takes_any_text() -> None:
    text = 'line\nbreak "quoted" \ud800'
    line = JsonFormatter().format(record(text))
    assert "\n" not in line
    assert json.loads(line)["message"] == text


def test_a_traceback_is_a_field() -> None:
    made = record("broken")
    try:
        raise OSError("the cause")
    except OSError:
        made.exc_info = sys.exc_info()
    assert "OSError: the cause" in json.loads(JsonFormatter().format(made))["exception"]


def test_no_library_writes_down_what_is_asked_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signed address lets in whoever reads it."""
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    levels = {name: logging.getLogger(name).level for name in ("httpx", *logs.OURS)}
    try:
        logs.start("json", debug=True)
        assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def test_a_line_for_people() -> None:
    assert TextFormatter().format(record("hello")).endswith(" INFO hello")


def test_the_fields_of_a_good_request() -> None:
    found = access.fields(
        ctx(
            trace_id="abc",
            caller=Caller(key_id="k1"),
            stream=True,
            prompt_tokens=7,
            output_tokens=3,
            queue_ns=2 * MS,
            first_token_ns=100 * MS,
            finish="stop",
        )
    )
    assert found == {
        "request_id": "r1",
        "trace_id": "abc",
        "key_id": "k1",
        "method": "POST",
        "route": "/api/chat",
        "operation": "chat",
        "model": "m:latest",
        "stream": True,
        "status": 200,
        "outcome": "ok",
        "duration_s": 1.5,
        "queue_s": 0.002,
        "first_token_s": 0.1,
        "prompt_tokens": 7,
        "output_tokens": 3,
        "finish_reason": "stop",
    }


def test_content_is_told_only_where_it_was_kept() -> None:
    prompt = ChatPrompt((Message.of("user", "a secret"),))
    kept = access.fields(ctx(prompt=prompt, answer="the answer"))
    assert (kept["prompt"][0]["parts"][0]["content"], kept["answer"]) == ("a secret", "the answer")
    assert not access.fields(ctx()).keys() & {"prompt", "answer"}


def test_a_path_that_is_not_routed_is_told_as_it_came() -> None:
    found = access.fields(ctx(route="", path="/nowhere", operation="", model="", status=404))
    assert (found["path"], found["outcome"]) == ("/nowhere", "error")
    assert "route" not in found


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, "INFO"),
        ({"status": 404}, "INFO"),
        ({"status": 500, "failure": "EngineDied"}, "WARNING"),
        ({"failure": "EngineDied"}, "WARNING"),
        ({"answered": False}, "INFO"),
        ({"route": "/readyz", "operation": ""}, "DEBUG"),
        ({"route": "/metrics", "status": 500, "operation": ""}, "DEBUG"),
    ],
)
def test_the_level_of_a_line(changes: dict[str, Any], level: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "caravan.access"):
        access.log(ctx(**changes))
    assert [each.levelname for each in caplog.records] == [level]


def test_what_a_client_chose_cannot_begin_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "caravan.access"):
        access.log(ctx(route="", path="/a\nb", status=404, error="model 'x\ny' not found"))
    (line,) = caplog.messages
    assert "\n" not in line
    assert r"/a\nb" in line
    assert r"model 'x\ny' not found" in line


def test_a_prompt_is_told_in_messages_of_the_conventions() -> None:
    used = PastToolCall("now", {"zone": "UTC"})
    chat = ChatPrompt(
        (
            Message.of("user", "What time?", images=(b"png",)),
            Message.of("assistant", thinking="Hm", tool_calls=(used,)),
            Message.of("tool", "noon", tool_call_id="c1"),
        )
    )
    assert messages_of(chat) == [
        {"role": "user", "parts": [{"type": "text", "content": "What time?"}, {"type": "image"}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm"},
                {"type": "tool_call", "name": "now", "arguments": {"zone": "UTC"}},
            ],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "noon"}]},
    ]
    assert messages_of(CompletionPrompt("Go", system="Be kind")) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be kind"}]},
        {"role": "user", "parts": [{"type": "text", "content": "Go"}]},
    ]


@pytest.mark.parametrize(
    ("form", "terminal", "formatter"),
    [
        ("auto", True, TextFormatter),
        ("auto", False, JsonFormatter),
        ("json", True, JsonFormatter),
        ("text", False, TextFormatter),
    ],
)
def test_the_log_is_text_where_people_read_it(
    form: logs.LogFormat, terminal: bool, formatter: type[logging.Formatter]
) -> None:
    assert type(logs.formatter(form, terminal=terminal)) is formatter


def test_the_log_of_a_library_becomes_ours() -> None:
    library = logging.getLogger("test-library")
    library.addHandler(logging.StreamHandler())
    library.propagate = False
    logs.adopt("test-library")
    assert (library.handlers, library.propagate) == ([], True)


def test_a_line_of_a_front_end_has_its_number() -> None:
    record = logging.makeLogRecord({"msg": "hello", "levelname": "INFO", "name": "caravan"})
    assert logs.formatter("text", terminal=False, front_end=2).format(record).endswith(" INFO [2] hello")
    assert json.loads(logs.formatter("json", terminal=False, front_end=2).format(record))["front_end"] == 2
    assert "front_end" not in json.loads(logs.formatter("json", terminal=False).format(record))
