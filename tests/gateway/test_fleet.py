"""A cluster on one machine: what users see of a rolling restart, and of a replica that dies (rows C3, C7)."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from harness.envoy import CHART
from tests.gateway.fleet import NAMES, Crowd, Fleet, fleet
from tests.gateway.replica import MODEL

CLIENTS = 24
REQUESTS = 1000
WAIT_S = 10.0
"""`gateway.waitSeconds`."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


def chat(tokens: int) -> dict[str, object]:
    messages = [{"role": "user", "content": "Hi"}]
    return {"model": MODEL, "messages": messages, "options": {"num_predict": tokens}}


async def test_a_rolling_restart_under_load_loses_nothing(running: Fleet) -> None:
    crowd = Crowd(running.gateway.port, REQUESTS)

    def restart() -> None:
        for name in NAMES:
            running.end(name, signal.SIGTERM)
            running.start(name)
            running.wait_healthy(*NAMES)

    load = asyncio.create_task(crowd.run(CLIENTS))
    try:
        await asyncio.to_thread(restart)
    finally:
        crowd.stopped = True
        await load
    assert len(crowd.answers) >= REQUESTS
    assert crowd.of("refused", "cut", "wrong") == []
    assert {answer.by for answer in crowd.answers} == set(NAMES)


async def test_a_replica_that_is_killed_loses_its_own_streams_and_nobody_is_deceived(running: Fleet) -> None:
    crowd = Crowd(running.gateway.port)
    victim = NAMES[0]
    load = asyncio.create_task(crowd.run(CLIENTS))
    try:
        await asyncio.sleep(2)
        before = len(crowd.answers)
        running.end(victim, signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.to_thread(running.wait_healthy, *NAMES[1:])
        await asyncio.sleep(2)
    finally:
        crowd.stopped = True
        await load
    lost = crowd.of("refused", "cut", "wrong")
    assert [answer for answer in lost if answer.outcome == "wrong"] == []
    assert 0 < len(lost) <= CLIENTS
    assert {answer.by for answer in lost} <= {victim, ""}
    assert max(answer.begun for answer in lost) < killed + 0.1
    after = [answer for answer in crowd.answers[before:] if answer.begun > killed + 0.1]
    assert {answer.by for answer in after} == set(NAMES[1:])
    running.start(victim)
    await asyncio.to_thread(running.wait_healthy, *NAMES)


async def test_what_finds_no_replica_waits_for_one(running: Fleet) -> None:
    """The only replica stops before another has started: what comes between waits, and none is refused."""
    last, *others = NAMES
    for name in others:
        running.end(name, signal.SIGKILL)
    await asyncio.to_thread(running.wait_healthy, last)
    crowd = Crowd(running.gateway.port)
    load = asyncio.create_task(crowd.run(CLIENTS))
    try:
        await asyncio.sleep(1)
        ended = asyncio.create_task(asyncio.to_thread(running.end, last, signal.SIGTERM))
        await asyncio.to_thread(running.wait_healthy)
        for name in others:
            running.start(name)
        await asyncio.to_thread(running.wait_healthy, *others)
        await ended
    finally:
        crowd.stopped = True
        await load
    assert crowd.of("refused", "cut", "wrong") == []
    assert {answer.by for answer in crowd.answers} == set(NAMES)
    running.start(last)
    await asyncio.to_thread(running.wait_healthy, *NAMES)


def test_where_none_comes_that_is_said(running: Fleet) -> None:
    for name in NAMES:
        running.end(name, signal.SIGKILL)
    running.wait_healthy()
    begun = time.monotonic()
    text = "no replica of this model answers, please try again"

    def ask(path: str) -> httpx.Response:
        return httpx.post(f"{running.gateway.url}{path}", json=chat(1), timeout=60)

    paths = ("/api/chat", "/v1/chat/completions", "/v1/responses", "/v1/messages?beta=true")
    with ThreadPoolExecutor() as pool:
        ours, chats, responses, anthropics = pool.map(ask, paths)
    assert time.monotonic() - begun > WAIT_S
    assert {each.headers["content-type"] for each in (ours, chats, anthropics)} == {
        "application/json; charset=utf-8"
    }
    assert (ours.status_code, ours.json()) == (503, {"error": text})
    told = {"error": {"message": text, "type": "api_error", "param": None, "code": None}}
    assert (chats.status_code, chats.json()) == (responses.status_code, responses.json()) == (503, told)
    assert anthropics.status_code == 529
    assert anthropics.json() == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": text},
        "request_id": anthropics.headers["request-id"],
    }
    for name in NAMES:
        running.start(name)
    running.wait_healthy(*NAMES)


def test_a_gateway_that_is_to_stop_waits_for_its_streams(running: Fleet) -> None:
    """What `preStop` runs: red at once, over when the last stream is."""
    gateway, tokens = running.gateway, 150
    with httpx.stream("POST", f"{gateway.url}/api/chat", json=chat(tokens), timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        drain = subprocess.Popen(["bash", CHART / "files" / "drain.sh", "0", "60", str(gateway.admin)])
        gateway.wait_red()
        assert drain.poll() is None
        assert json.loads(list(lines)[-1])["eval_count"] == tokens
    assert drain.wait(10) == 0


def test_the_log_of_a_replica_names_nothing_that_went_wrong(running: Fleet) -> None:
    files = sorted(Path(running.scratch).glob("?.log"))
    assert [file.stem for file in files] == sorted(NAMES)
    for file in files:
        assert "Traceback" not in file.read_text()
