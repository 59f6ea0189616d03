"""What clients and `/metrics` see of models whose engines take turns asleep."""

from collections.abc import Generator

import pytest

from app.runtime.ledger import Ledger
from harness.fake_model import fake_model
from harness.sleepers import Device100
from tests.api.scrape import value
from tests.e2e.engines import eventually
from tests.e2e.fake_site import FakeSite, fake_site

SOON_S = 10.0


@pytest.fixture
def site() -> Generator[FakeSite]:
    device = Device100()
    models = fake_model("a"), fake_model("b")
    with fake_site(*models, engine=device.start, ledger=Ledger(device, sleep_bytes=64)) as running:
        yield running


def ask(site: FakeSite, model: str) -> int:
    """The time that its load took, as the reply tells it."""
    body = {"model": model, "prompt": "Hi", "stream": False}
    return site.client.post("/api/generate", json=body).raise_for_status().json()["load_duration"]


def loaded(site: FakeSite) -> list[str]:
    return [row["name"] for row in site.client.get("/api/ps").json()["models"]]


def test_a_model_that_sleeps_is_not_loaded_and_its_wake_is_told_as_one_and_counted_apart(
    site: FakeSite,
) -> None:
    a = {"gen_ai_request_model": "a:latest"}
    ask(site, "a")
    ask(site, "b")
    assert loaded(site) == ["b:latest"]
    assert value(site.client, "caravan_model_asleep", **a) == 1
    assert value(site.client, "caravan_model_ready", **a) == 0
    assert value(site.client, "caravan_model_sleeps_total", **a, reason="evicted") == 1
    assert value(site.client, "caravan_sleep_memory_bytes", state="total") == 64
    assert value(site.client, "caravan_sleep_memory_bytes", state="promised") == 30
    assert value(site.client, "caravan_device_memory_bytes", state="promised") == 65
    assert ask(site, "a") > 0
    assert loaded(site) == ["a:latest"]
    assert value(site.client, "caravan_model_asleep", **a) == 0
    assert value(site.client, "caravan_model_wakes_total", **a, outcome="ok") == 1
    assert value(site.client, "caravan_model_wake_duration_seconds_count", **a) == 1
    assert value(site.client, "caravan_model_loads_total", **a, outcome="ok") == 1
    assert len(site.engines) == 2


def test_a_client_that_asks_for_the_memory_of_a_model_asleep_gets_it(site: FakeSite) -> None:
    ask(site, "a")
    ask(site, "b")
    site.client.post("/api/generate", json={"model": "a", "keep_alive": 0}).raise_for_status()
    eventually(lambda: site.engines[0].closed, SOON_S)
    assert value(site.client, "caravan_model_unloads_total", reason="asked") == 1
    assert value(site.client, "caravan_sleep_memory_bytes", state="promised") == 0
