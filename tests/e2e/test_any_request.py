"""Requests that are wrong from the first byte on: each is answered or let go, and the server serves on."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from chaos.fuzz import every_path, exchange
from harness.fake_model import fake_model
from harness.requests.heads import Sent, garbage, improper, odd
from tests.e2e.fake_site import FakeSite, fake_site

fuzz = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def site() -> Iterator[FakeSite]:
    with fake_site(fake_model("all"), fake_model("emb", "embedding"), body_timeout=0.2) as made:
        yield made
        assert made.running == 0
        assert made.client.get("/").text == "Ollama is running"


def send(site: FakeSite, sent: Sent) -> None:
    assert asyncio.run(exchange(f"http://127.0.0.1:{site.port}", sent.data)) == ""


@fuzz
@given(sent=odd(every_path()))
def test_any_head_is_answered(site: FakeSite, sent: Sent) -> None:
    send(site, sent)


@settings(fuzz, max_examples=150)
@given(sent=improper(every_path()))
def test_what_http_does_not_allow_is_refused(site: FakeSite, sent: Sent) -> None:
    send(site, sent)


@settings(fuzz, max_examples=100)
@given(sent=garbage())
def test_what_is_no_http_is_let_go(site: FakeSite, sent: Sent) -> None:
    send(site, sent)
