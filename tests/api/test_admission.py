"""A model that is as busy as it may be: the next request is refused before any work is done for it."""

import json
import socket
from collections.abc import Callable

import pytest

from app.engine.fake.engine import FakeEngine
from harness.fake_model import fake_model
from tests.api.gates import Gate
from tests.api.live import response_of
from tests.api.scrape import value
from tests.e2e.engines import asking, eventually
from tests.e2e.fake_site import FakeSite, fake_site

BUSY = {"error": "server busy, please try again.  maximum pending requests exceeded"}
SOON_S = 10.0
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


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
            eventually(lambda: queued(site) == 1, SOON_S)
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
                eventually(lambda: queued(site) == 1, SOON_S)
                assert site.client.post("/api/chat", json=CHAT).status_code == 503
            eventually(lambda: queued(site) == 0, SOON_S)
            with asking(url, "/api/chat", CHAT) as next_one:
                eventually(lambda: queued(site) == 1, SOON_S)
                gate.open()
                assert _last_line(next_one)["done"] is True


def queued(site: FakeSite) -> float:
    """The requests that wait for the engine, none of which has reached it."""
    assert site.running <= 1
    return value(site.client, "caravan_queue_depth", stage="engine") or 0


def test_prompts_that_wait_have_a_bound_of_tokens_together() -> None:
    """One may always wait, however long its prompt."""
    gate = Gate()
    long = {**CHAT, "messages": [{"role": "user", "content": "word " * 100}]}
    with fake_site(fake_model("m"), engine=engine(gate), max_queue_tokens=120) as site:
        url = f"http://127.0.0.1:{site.port}"
        site.client.post("/api/generate", json={"model": "m"}).raise_for_status()
        with asking(url, "/api/chat", CHAT), asking(url, "/api/chat", long) as waiting:
            eventually(lambda: queued(site) == 1, SOON_S)
            refused = site.client.post("/api/chat", json=long)
            assert (refused.status_code, refused.json()) == (503, BUSY)
            gate.open()
            assert _last_line(waiting)["done"] is True
        assert site.client.post("/api/chat", json=long).status_code == 200


def _last_line(client: socket.socket) -> dict[str, object]:
    response, body = response_of(client)
    assert response.status == 200, body
    return json.loads(body.splitlines()[-1])
