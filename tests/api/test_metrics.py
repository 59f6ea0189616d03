"""What `/metrics` tells of requests that went well, were refused, failed or were given up."""

import asyncio
import json
import socket
from collections.abc import Generator

import pytest
from prometheus_client.samples import Sample

from app.core.errors import EngineDied, EngineFailed
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.telemetry.instruments import INSTRUMENTS
from app.telemetry.setup import start
from harness.fake_model import fake_model
from scripts.generate import prometheus_name
from tests.api.scrape import samples, value
from tests.e2e.engines import eventually
from tests.e2e.fake_site import FakeSite, fake_site

SOON_S = 10.0
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def hold(index: int) -> asyncio.Future[None]:
    """Lets two deltas through and holds the third back for ever."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if index < 2:
        future.set_result(None)
    return future


def engine() -> FakeEngine:
    script = {
        "fail": Reply((" a", " b", " c"), error=EngineFailed("it broke"), error_after=2),
        "hold": Reply((" a", " b", " c"), gate=hold),
        "die": Reply((" a",), error=EngineDied("it is gone")),
    }
    return FakeEngine(script, slots=1)


@pytest.fixture
def site() -> Generator[FakeSite]:
    models: list[Model] = [fake_model("m"), fake_model("idle"), fake_model("vec", "embedding")]
    with fake_site(*models, engine=engine, max_body_bytes=4096) as running:
        yield running


def say(content: str, *, stream: bool = True) -> dict[str, object]:
    return {**CHAT, "messages": [{"role": "user", "content": content}], "stream": stream}


def begin(site: FakeSite, body: object) -> socket.socket:
    """A client that has asked and reads nothing."""
    data = json.dumps(body).encode()
    head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    client = socket.create_connection(("127.0.0.1", site.port), timeout=SOON_S)
    client.sendall(head.encode() + data)
    return client


@pytest.mark.parametrize("stream", [True, False])
def test_a_good_answer_is_counted_with_its_tokens_and_times(site: FakeSite, stream: bool) -> None:
    site.client.post("/api/chat", json=say("Hi", stream=stream)).raise_for_status()
    of = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "m:latest"}
    for name in (
        "gen_ai_server_request_duration_seconds",
        "gen_ai_server_time_to_first_token_seconds",
        "gen_ai_server_time_per_output_token_seconds",
    ):
        assert value(site.client, f"{name}_count", **of) == 1
    assert value(site.client, "gen_ai_client_token_usage_sum", **of, gen_ai_token_type="output") == 5
    assert value(site.client, "gen_ai_client_token_usage_sum", **of, gen_ai_token_type="input")
    waits = {"gen_ai_request_model": "m:latest", "stage": "engine"}
    assert value(site.client, "caravan_queue_duration_seconds_count", **waits) == 1
    answered = {"http_request_method": "POST", "http_route": "/api/chat", "http_response_status_code": "200"}
    assert value(site.client, "http_server_request_duration_seconds_count", **answered) == 1
    first = value(site.client, "gen_ai_server_time_to_first_token_seconds_sum", **of)
    whole = value(site.client, "gen_ai_server_request_duration_seconds_sum", **of)
    assert first is not None
    assert whole is not None
    assert 0 < first <= whole


def test_embeddings_have_tokens_and_no_first_one(site: FakeSite) -> None:
    site.client.post("/api/embed", json={"model": "vec", "input": "one two"}).raise_for_status()
    of = {"gen_ai_operation_name": "embeddings", "gen_ai_request_model": "vec:latest"}
    assert value(site.client, "gen_ai_server_request_duration_seconds_count", **of) == 1
    assert value(site.client, "gen_ai_client_token_usage_sum", **of) == 2
    assert value(site.client, "gen_ai_server_time_to_first_token_seconds_count", **of) is None


def test_a_request_that_only_loads_or_unloads_is_no_work_of_the_model(site: FakeSite) -> None:
    site.client.post("/api/generate", json={"model": "m"}).raise_for_status()
    site.client.post("/api/generate", json={"model": "m", "keep_alive": 0}).raise_for_status()
    assert value(site.client, "gen_ai_server_request_duration_seconds_count") is None
    assert value(site.client, "http_server_request_duration_seconds_count", http_route="/api/generate") == 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_in_the_engine_is_an_error_whatever_the_status_was(site: FakeSite, stream: bool) -> None:
    answer = site.client.post("/api/chat", json=say("fail", stream=stream))
    assert answer.status_code == (200 if stream else 500)
    assert "it broke" in answer.text
    failed = {
        "gen_ai_request_model": "m:latest",
        "error_type": "EngineFailed",
        "http_response_status_code": "200" if stream else "500",
    }
    assert value(site.client, "gen_ai_server_request_duration_seconds_count", **failed) == 1
    assert value(site.client, "http_server_request_duration_seconds_count", error_type="EngineFailed") == 1
    assert value(site.client, "gen_ai_server_time_to_first_token_seconds_count") is None
    assert value(site.client, "gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 2


def test_a_client_that_leaves_is_counted_with_what_it_used(site: FakeSite) -> None:
    with begin(site, say("hold")) as client:
        assert client.recv(1)
        assert value(site.client, "caravan_requests_active", gen_ai_request_model="m:latest") == 1
        eventually(lambda: site.engines[0].metrics()["running"] == 1, SOON_S)
    of = {"gen_ai_request_model": "m:latest"}
    eventually(lambda: value(site.client, "caravan_cancellations_total", **of) == 1, SOON_S)
    assert value(site.client, "gen_ai_server_request_duration_seconds_count", error_type="cancelled") == 1
    used = value(site.client, "gen_ai_client_token_usage_sum", gen_ai_token_type="output", **of)
    assert used is not None
    assert used >= 1
    assert value(site.client, "caravan_requests_active", **of) == 0


def test_the_line_before_the_engine_is_a_gauge(site: FakeSite) -> None:
    of = {"gen_ai_request_model": "m:latest"}
    waiting = {"stage": "engine", **of}
    with begin(site, say("hold")) as first:
        assert first.recv(1)
        assert value(site.client, "caravan_queue_depth", **waiting) == 0
        with begin(site, say("hold")):
            eventually(lambda: value(site.client, "caravan_queue_depth", **waiting) == 1, SOON_S)
            assert value(site.client, "caravan_requests_active", **of) == 2
    eventually(lambda: value(site.client, "caravan_queue_depth", **waiting) == 0, SOON_S)
    eventually(lambda: value(site.client, "caravan_cancellations_total", **of) == 2, SOON_S)


def test_a_model_is_ready_once_it_is_loaded(site: FakeSite) -> None:
    def ready(model: str) -> float | None:
        return value(site.client, "caravan_model_ready", gen_ai_request_model=f"{model}:latest")

    assert (ready("m"), ready("idle")) == (0, 0)
    site.client.post("/api/chat", json=say("Hi")).raise_for_status()
    assert (ready("m"), ready("idle")) == (1, 0)


def test_a_replica_is_ready_while_readyz_is_green() -> None:
    engines = iter([engine()])

    def start_once() -> FakeEngine:
        if (made := next(engines, None)) is None:
            raise OSError("no such file")
        return made

    with fake_site(fake_model("m"), engine=start_once) as site:
        site.client.post("/api/chat", json=say("Hi")).raise_for_status()
        assert site.client.get("/readyz").status_code == 200
        assert value(site.client, "caravan_ready") == 1
        assert "gone" in site.client.post("/api/chat", json=say("die")).text
        eventually(lambda: site.client.get("/readyz").status_code == 503, SOON_S)
        assert value(site.client, "caravan_ready") == 0


def test_refusals_are_counted_by_reason(site: FakeSite) -> None:
    def refused(reason: str) -> float | None:
        return value(site.client, "caravan_rejections_total", reason=reason)

    assert [refused(each) for each in ("too_large", "queue_full", "draining")] == [0, 0, 0]
    assert site.client.post("/api/chat", content=b" " * 5000).status_code == 413
    assert site.client.get("/api/tags", headers={"host": "evil.example.com"}).status_code == 403
    assert site.client.get("/api/tags", headers={"origin": "http://evil.example.com"}).status_code == 403
    assert (refused("too_large"), refused("host"), refused("origin"), refused("queue_full")) == (1, 1, 1, 0)


def test_what_clients_invent_makes_no_series(site: FakeSite) -> None:
    site.client.post("/api/chat", json={**CHAT, "model": "nobody"})
    site.client.request("PROPFIND", "/nowhere")
    samples(site.client)  # the series of the look itself
    before = {sample_key(each) for each in samples(site.client)}
    for number in range(20):
        answer = site.client.post("/api/chat", json={**CHAT, "model": f"evil-{number}"})
        assert answer.status_code == 404
        site.client.request("PROPFIND", f"/nowhere/{number}")
    assert {sample_key(each) for each in samples(site.client)} == before
    lost = {"gen_ai_request_model": "unknown", "error_type": "ModelNotFound"}
    assert value(site.client, "gen_ai_server_request_duration_seconds_count", **lost) == 21
    odd = {"http_request_method": "_OTHER", "http_route": "", "http_response_status_code": "404"}
    assert value(site.client, "http_server_request_duration_seconds_count", **odd) == 21


def sample_key(sample: Sample) -> str:
    return f"{sample.name}{sorted(sample.labels.items())}"


def test_events_begin_at_zero_so_that_the_first_is_a_rise(site: FakeSite) -> None:
    for model in ("m:latest", "idle:latest"):
        of = {"gen_ai_request_model": model}
        assert value(site.client, "caravan_engine_restarts_total", **of) == 0
        assert value(site.client, "caravan_cancellations_total", **of) == 0
        assert value(site.client, "caravan_model_loads_total", **of, outcome="error") == 0
        assert value(site.client, "caravan_requests_active", **of) == 0
    assert value(site.client, "caravan_limits_store_failures_total") == 0


def test_loads_deaths_and_restarts_are_counted(site: FakeSite) -> None:
    of = {"gen_ai_request_model": "m:latest"}
    site.client.post("/api/chat", json=say("Hi")).raise_for_status()
    assert "gone" in site.client.post("/api/chat", json=say("die")).text
    assert value(site.client, "gen_ai_server_request_duration_seconds_count", error_type="EngineDied") == 1
    eventually(lambda: value(site.client, "caravan_model_unloads_total", **of, reason="died") == 1, SOON_S)
    site.client.post("/api/chat", json=say("Hi")).raise_for_status()
    assert value(site.client, "caravan_engine_restarts_total", **of) == 1
    assert value(site.client, "caravan_model_loads_total", **of, outcome="ok") == 2
    assert value(site.client, "caravan_model_load_duration_seconds_count", **of) == 2
    site.client.post("/api/generate", json={"model": "m", "keep_alive": 0}).raise_for_status()
    eventually(lambda: value(site.client, "caravan_model_unloads_total", **of, reason="asked") == 1, SOON_S)


def test_a_load_that_fails_is_counted() -> None:
    def broken() -> FakeEngine:
        raise OSError("no such file")

    with fake_site(fake_model("m"), engine=broken) as site:
        assert site.client.post("/api/chat", json=say("Hi")).status_code == 500
        assert value(site.client, "caravan_model_loads_total", outcome="error") == 1
        assert value(site.client, "caravan_model_loads_total", outcome="ok") == 0
        failed = {"gen_ai_request_model": "m:latest", "error_type": "LoadFailed"}
        assert value(site.client, "gen_ai_server_request_duration_seconds_count", **failed) == 1


def test_prometheus_knows_every_metric_by_the_name_in_the_guide() -> None:
    telemetry = start()
    for each in INSTRUMENTS:
        if each.watched or each.kind == "gauge":
            telemetry.metrics.watch(each, lambda: [(1.0, {})])
        elif each.kind == "counter":
            telemetry.metrics.count(each)
        else:
            telemetry.metrics.observe(each, 1.0)
    series = {"counter": "", "gauge": "", "histogram": "_bucket"}
    shown = {sample.name for family in telemetry.registry.collect() for sample in family.samples}
    assert {prometheus_name(each) + series[each.kind] for each in INSTRUMENTS} <= shown
    telemetry.close()


def test_a_series_is_told_once_whoever_answers(site: FakeSite) -> None:
    """One bad request is found by the route, the other by what runs its answer: both are 400."""
    assert site.client.post("/api/chat", content=b"{").status_code == 400
    assert site.client.post("/api/chat", json={**CHAT, "options": {"temperature": "hot"}}).status_code == 400
    series = [(each.name, frozenset(each.labels.items())) for each in samples(site.client)]
    assert len(series) == len(set(series))
