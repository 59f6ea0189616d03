"""A model that is as busy as it may be: the next request is refused before any work is done for it."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable

import pytest

from app.engine.fake import FakeEngine
from tests.api.live import response_of
from tests.e2e.engines import asking, eventually
from tests.e2e.fake_site import fake_model, fake_site

BUSY = {"error": "server busy, please try again.  maximum pending requests exceeded"}
SOON_S = 10.0
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


class Gate:
    """Holds every delta of every reply back until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[asyncio.Future[None]] = []

    async def __call__(self, _: int) -> None:
        self._loop = asyncio.get_running_loop()
        if not self._open.is_set():
            self._waiting.append(held := self._loop.create_future())
            await held

    def open(self) -> None:
        self._open.set()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        for held in self._waiting:
            if not held.done():
                held.set_result(None)


def engine(gate: Gate) -> Callable[[], FakeEngine]:
    return lambda: FakeEngine(slots=1, gate=gate)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_full_queue_is_refused_with_ollamas_text_and_without_work(path: str, stream: bool) -> None:
    gate = Gate()
    body = {**CHAT, "prompt": "Hi", "stream": stream}
    with fake_site(fake_model("m"), engine=engine(gate), max_queue=1) as site:
        url = f"http://127.0.0.1:{site.port}"
        site.client.post("/api/generate", json={"model": "m"}).raise_for_status()
        with asking(url, "/api/chat", CHAT) as first, asking(url, "/api/chat", CHAT) as second:
            eventually(lambda: site.running == 2, SOON_S)
            rendered = len(site.engines[0].renderings)
            refused = site.client.post(path, json=body)
            assert (refused.status_code, refused.json()) == (503, BUSY)
            assert len(site.engines[0].renderings) == rendered == 2
            gate.open()
            assert [_last_line(each)["done"] for each in (first, second)] == [True, True]
        assert site.client.post(path, json=body).status_code == 200
        assert site.running == 0


def test_a_client_that_leaves_the_queue_makes_room_in_it() -> None:
    gate = Gate()
    with fake_site(fake_model("m"), engine=engine(gate), max_queue=1) as site:
        url = f"http://127.0.0.1:{site.port}"
        site.client.post("/api/generate", json={"model": "m"}).raise_for_status()
        with asking(url, "/api/chat", CHAT):
            eventually(lambda: site.running == 1, SOON_S)
            with asking(url, "/api/chat", CHAT):
                eventually(lambda: site.running == 2, SOON_S)
                assert site.client.post("/api/chat", json=CHAT).status_code == 503
            eventually(lambda: site.running == 1, SOON_S)
            with asking(url, "/api/chat", CHAT) as next_one:
                eventually(lambda: site.running == 2, SOON_S)
                gate.open()
                assert _last_line(next_one)["done"] is True


def _last_line(client: socket.socket) -> dict[str, object]:
    response, body = response_of(client)
    assert response.status == 200, body
    return json.loads(body.splitlines()[-1])
