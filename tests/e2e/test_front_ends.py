"""A server of several processes over one real engine, and what is left when one of them is killed."""

import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.server import models, serving
from tests.e2e.engines import OwnServer, asking, busy, eventually, load, loaded, own

pytestmark = pytest.mark.engine

COUNT = 2
LONG: dict[str, Any] = {
    "model": "tool",
    "messages": [{"role": "user", "content": "Count."}],
    "think": False,
    "format": {"type": "array", "items": {"type": "integer"}, "minItems": 1000, "maxItems": 1000},
    "options": {"temperature": 0, "num_ctx": 4096},
}
"""A chat whose answer takes many seconds, whatever the model makes of it."""


def workers(site: OwnServer) -> dict[int, psutil.Process]:
    """The processes that take requests, by number."""
    found: dict[int, psutil.Process] = {}
    for process in site.process.children():
        command = process.cmdline()
        if "app.frontend" in command:
            found[int(command[command.index("app.frontend") + 1])] = process
    return found


def serving_now(client: httpx.Client) -> float:
    return next(
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "caravan_front_ends"
    )


def ask(site: OwnServer, path: str = "/api/chat", **body: Any) -> httpx.Response:
    """By a connection of its own, which comes to any of the processes."""
    asked = {"model": "tool", "messages": [{"role": "user", "content": "Hello"}], "stream": False} | body
    return httpx.post(site.url + path, json=asked, timeout=240)  # the first waits for imports too


def who_answers(site: OwnServer) -> set[str]:
    """The numbers of the processes that have answered a chat."""
    return set(re.findall(r"\[(\d+)\] POST /api/chat 200", site.log))


def of_each(site: OwnServer, streams: ExitStack) -> Iterator[tuple[int, socket.socket]]:
    """Long answers until every process has one, each with the number of its own."""
    there = workers(site)
    begun: set[int] = set()
    while begun != there.keys():
        stream = streams.enter_context(asking(site.url, "/api/chat", LONG))
        assert stream.recv(1 << 16)
        port = stream.getsockname()[1]
        (whose,) = (
            number
            for number, process in there.items()
            for each in process.net_connections("tcp")
            if each.raddr and each.raddr.port == port
        )
        begun.add(whose)
        yield whose, stream


def gone(family: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(family, timeout=0)[1]


def test_several_processes_are_one_server(tmp_path: Path) -> None:
    served = [each for each in models() if each["name"] == "tool"]
    with (
        serving(served, tmp_path, CARAVAN_FRONT_ENDS=str(COUNT)) as live,
        own(live, tmp_path) as site,
    ):
        assert sorted(workers(site)) == [1, 2]
        eventually(lambda: serving_now(site.client) == COUNT, 30)

        # Each of them answers, as one process would.
        first = ask(site, options={"temperature": 0}).json()["message"]["content"]
        assert first
        while len(who_answers(site)) < COUNT:
            assert ask(site, options={"temperature": 0}).json()["message"]["content"] == first
        assert ask(site, "/api/show").json()["details"]["family"] == "qwen3"

        # A model that is asked to go stays for as long as somebody uses it.
        with asking(site.url, "/api/chat", LONG) as stream:
            assert stream.recv(1 << 16)
            assert ask(site, "/api/generate", keep_alive=0).status_code == 200
            assert loaded(site.client) == ["tool"]
        eventually(lambda: not loaded(site.client), 30)
        eventually(lambda: not site.engines(), 30)
        load(site.client, "tool")

        # One that is killed takes its own streams along, and leaves none of them in the engine.
        with ExitStack() as streams:
            asked = list(of_each(site, streams))
            (victim, *_), survivors = asked[0], [stream for whose, stream in asked if whose != asked[0][0]]
            workers(site)[victim].kill()
            for whose, stream in asked:
                if whose == victim:
                    assert b'"done":true' not in b"".join(iter(lambda end=stream: read(end), b""))
            assert all(stream.recv(1 << 16) for stream in survivors)
        eventually(lambda: ask(site).status_code == 200 and busy(site.client, "tool") == 0, 5)
        assert f"front end {victim} has ended with status -9 and is started again" in site.log
        eventually(lambda: serving_now(site.client) == COUNT, 60)
        assert loaded(site.client) == ["tool"]

        # The one that has come in its place answers too.
        before = len(re.findall(rf"\[{victim}\] POST /api/chat 200", site.log))
        eventually(
            lambda: (
                ask(site).status_code == 200
                and len(re.findall(rf"\[{victim}\] POST /api/chat 200", site.log)) > before
            ),
            30,
        )

        family, server = site.family(), site.process
        server.terminate()
        assert server.wait(60) == 0
        eventually(lambda: gone(family), 10)


def read(end: socket.socket) -> bytes:
    """What comes next; nothing once the other end is gone, however it went."""
    try:
        return end.recv(1 << 16)
    except ConnectionResetError:
        return b""


def test_nothing_outlives_the_process_that_has_the_engines(tmp_path: Path) -> None:
    served = [each for each in models() if each["name"] == "tool"]
    with (
        serving(served, tmp_path, CARAVAN_FRONT_ENDS=str(COUNT)) as live,
        own(live, tmp_path) as site,
    ):
        family = site.family()
        assert len(workers(site)) == COUNT
        site.process.send_signal(signal.SIGKILL)
        eventually(lambda: gone(family), 10)
