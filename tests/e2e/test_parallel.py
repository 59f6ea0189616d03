"""An engine that works on one request at a time, behind the whole server."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.engine.fake.engine import FakeEngine
from harness.fake_model import fake_model
from tests.e2e.fake_site import fake_site


@pytest.mark.point(236)
def test_two_requests_to_an_engine_of_one_slot_both_succeed() -> None:
    body = {"model": "one", "messages": [{"role": "user", "content": "x"}], "stream": False}
    with fake_site(fake_model("one"), engine=lambda: FakeEngine(slots=1)) as site:
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: site.client.post("/api/chat", json=body), range(2)))
        assert [answer.status_code for answer in answers] == [200, 200]
        assert all(answer.json()["message"]["content"] for answer in answers)
        assert len(site.engines) == 1
        assert site.running == 0
