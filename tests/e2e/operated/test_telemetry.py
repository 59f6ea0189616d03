"""The real server with the real engine, told to send its telemetry to a real receiver."""

import json
import secrets
import signal
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.scrape import value
from tests.e2e.collector import Collector, SentSpan
from tests.e2e.engines import STORY, OwnServer, asking, busy, eventually
from tests.e2e.keys import Keys

pytestmark = pytest.mark.engine

SOON_S = 20.0
GONE_S = 30.0
OF_TOOL = {"gen_ai_request_model": "tool:latest"}


def traced() -> tuple[str, str, dict[str, str]]:
    """A new trace of a client: its id, the id of the client's span, and the headers that say so."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    headers = {
        "traceparent": f"00-{trace_id}-{span_id}-01",
        "x-request-id": f"test-{trace_id}",
    }
    return trace_id, span_id, headers


def spans(collector: Collector, trace_id: str, *names: str) -> dict[str, SentSpan]:
    """The spans of a trace by name, once those of these names have come."""

    def come() -> dict[str, SentSpan]:
        found = {span.name: span for span in collector.spans(trace_id)}
        return found if found.keys() >= set(names) else {}

    return eventually(come, SOON_S)


def line_of(site: OwnServer, request_id: str) -> dict[str, Any]:
    def written() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in site.log.splitlines() if request_id in line]
        return [line for line in lines if line.get("request_id") == request_id]

    (line,) = eventually(written, SOON_S)
    return line


def post(site: OwnServer, headers: dict[str, str], **changes: Any) -> dict[str, Any]:
    answer: httpx.Response = site.client.post(
        "/api/chat", json={**STORY, "stream": False, **changes}, headers=headers
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_chat_is_one_trace_from_the_client_to_the_engine(site: OwnServer, collector: Collector) -> None:
    trace_id, parent_id, headers = traced()
    answer = post(site, headers, options={"temperature": 0, "num_predict": 5})
    found = spans(collector, trace_id, "chat tool:latest", "llm_request")
    request = found["chat tool:latest"]
    assert request.parent_id == parent_id
    assert found["llm_request"].parent_id == request.span_id
    assert [event.name for event in request.events] == ["scheduled", "first_token", "last_token"]
    times = [request.begun_ns, *(event.time_ns for event in request.events), request.ended_ns]
    assert times == sorted(times)
    prefill_s = request.events[1].attributes["caravan.prefill.duration"]
    assert round(prefill_s * 1e9) == answer["prompt_eval_duration"]
    told = request.attributes
    assert told["gen_ai.usage.output_tokens"] == answer["eval_count"] == 5
    assert told["gen_ai.usage.input_tokens"] == answer["prompt_eval_count"]
    assert told["gen_ai.response.finish_reasons"] == ["length"]
    assert (told["gen_ai.request.temperature"], told["gen_ai.request.max_tokens"]) == (0, 5)
    assert found["llm_request"].attributes["gen_ai.usage.completion_tokens"] == 5
    assert request.resource["service.name"] == "caravan"
    assert request.resource["deployment.environment.name"] == "test"


def test_embeddings_are_traced_into_the_engine(site: OwnServer, collector: Collector) -> None:
    trace_id, _, headers = traced()
    body = {"model": "emb", "input": "Hello"}
    site.client.post("/api/embed", json=body, headers=headers).raise_for_status()
    found = spans(collector, trace_id, "embeddings emb:latest", "llm_request")
    assert found["llm_request"].parent_id == found["embeddings emb:latest"].span_id
    assert found["embeddings emb:latest"].attributes["gen_ai.usage.input_tokens"] > 0


def test_a_trace_that_the_client_does_not_record_is_not_sent(site: OwnServer, collector: Collector) -> None:
    silent, _, headers = traced()
    headers["traceparent"] = headers["traceparent"].removesuffix("01") + "00"
    post(site, headers, options={"num_predict": 2})
    heard, _, headers = traced()
    post(site, headers, options={"num_predict": 2})
    spans(collector, heard, "chat tool:latest", "llm_request")
    assert collector.spans(silent) == []


def test_a_request_that_fails_is_counted_traced_and_logged(site: OwnServer, collector: Collector) -> None:
    trace_id, _, headers = traced()
    answer = site.client.post("/api/chat", json={"model": "nobody"}, headers=headers)
    assert answer.status_code == 404
    span = spans(collector, trace_id, "chat")["chat"]
    assert span.attributes["error.type"] == "ModelNotFound"
    assert span.attributes["http.response.status_code"] == 404
    lost = {"gen_ai_request_model": "unknown", "error_type": "ModelNotFound"}
    assert value(site.client, "gen_ai_server_request_duration_seconds_count", **lost)
    line = line_of(site, f"test-{trace_id}")
    assert (line["outcome"], line["error"]) == ("error", answer.json()["error"])


def test_a_client_that_leaves_is_counted_traced_and_logged(
    site: OwnServer, collector: Collector, keys: Keys
) -> None:
    before = value(site.client, "caravan_cancellations_total", **OF_TOOL) or 0
    lines = site.log.count('"outcome":"cancelled"')
    with asking(site.url, "/api/chat", STORY, key=keys.own) as client:
        received = client.recv(1)
        assert received
    eventually(lambda: value(site.client, "caravan_cancellations_total", **OF_TOOL) == before + 1, SOON_S)
    eventually(lambda: not busy(site.client, "tool"), SOON_S)
    assert value(site.client, "caravan_requests_active", **OF_TOOL) == 0
    assert site.log.count('"outcome":"cancelled"') == lines + 1
    (line,) = [json.loads(each) for each in site.log.splitlines() if '"outcome":"cancelled"' in each][-1:]
    assert line["output_tokens"] >= 1, "what it used is counted"
    assert line["model"] == "tool:latest"
    span = spans(collector, line["trace_id"], "chat tool:latest")["chat tool:latest"]
    assert span.attributes["error.type"] == "cancelled"
    assert span.attributes["gen_ai.usage.output_tokens"] == line["output_tokens"]


def test_the_line_of_a_request_leads_to_its_trace(site: OwnServer) -> None:
    trace_id, _, headers = traced()
    answer = post(site, headers, options={"num_predict": 3})
    line = line_of(site, headers["x-request-id"])
    expected = {
        "level": "info",
        "trace_id": trace_id,
        "method": "POST",
        "route": "/api/chat",
        "model": "tool:latest",
        "status": 200,
        "outcome": "ok",
        "prompt_tokens": answer["prompt_eval_count"],
        "output_tokens": answer["eval_count"],
        "finish_reason": "length",
        "prefill_s": round(answer["prompt_eval_duration"] / 1e9, 6),
        "decode_s": round(answer["eval_duration"] / 1e9, 6),
    }
    assert line | expected == line
    assert 0 < line["first_token_s"] <= line["duration_s"]


def test_every_line_of_the_log_is_json(site: OwnServer) -> None:
    odd = [line for line in site.log.splitlines() if not line.startswith("{")]
    assert odd == []
    lines = [json.loads(line) for line in site.log.splitlines()]
    assert all({"timestamp", "level", "logger", "message"} <= line.keys() for line in lines)
    assert any(line["message"].startswith("listening on") for line in lines)


def test_both_ways_lead_to_the_same_metrics(site: OwnServer, collector: Collector) -> None:
    _, _, headers = traced()
    post(site, headers, options={"num_predict": 3})
    shown = {family.name for family in text_string_to_metric_families(site.client.get("/metrics").text)}
    assert {"vllm:num_requests_running", "vllm:generation_tokens", "caravan_queue_depth"} <= shown
    seen = value(site.client, "gen_ai_server_time_to_first_token_seconds_count", **OF_TOOL)
    assert seen

    def sent() -> bool:
        points = collector.points("gen_ai.server.time_to_first_token")
        counts = (each.count for about, each in points if about["gen_ai.request.model"] == "tool:latest")
        return sum(counts) == seen

    eventually(sent, SOON_S)
    for name in ("caravan.model.ready", "caravan.queue.depth", "caravan.requests.active"):
        assert collector.points(name), name
    used = {about["gen_ai.token.type"] for about, _ in collector.points("gen_ai.client.token.usage")}
    assert used == {"input", "output"}


def test_no_key_and_no_word_of_a_prompt_is_told(site: OwnServer, collector: Collector, keys: Keys) -> None:
    trace_id, _, headers = traced()
    post(site, headers, messages=[{"role": "user", "content": "wombat"}], options={"num_predict": 2})
    spans(collector, trace_id, "chat tool:latest", "llm_request")
    line_of(site, headers["x-request-id"])
    told = site.log.encode() + b"".join(body for _, body in collector.bodies)
    told += site.client.get("/metrics").content
    assert b'"key_id":"own"' in told
    assert keys.own.rpartition("_")[2].encode() not in told
    assert b"wombat" not in told


def test_a_second_sigterm_ends_streams_with_an_error_line_and_tells_of_them(
    site: OwnServer, collector: Collector
) -> None:
    """The last one here: it ends the server."""
    trace_id, _, headers = traced()
    server, family = site.process, site.family()
    with site.client.stream("POST", "/api/chat", json=STORY, headers=headers) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.send_signal(signal.SIGTERM)
        eventually(lambda: "stopping: no new requests" in site.log, GONE_S)
        server.send_signal(signal.SIGTERM)
        assert json.loads(list(lines)[-1]) == {"error": "the server is shutting down"}
    assert server.wait(GONE_S) == 0
    assert psutil.wait_procs(family, GONE_S)[1] == []
    assert "requests cancelled at the end of the grace period: 1" in site.log
    (span,) = (each for each in collector.spans(trace_id) if each.name == "chat tool:latest")
    assert span.attributes["error.type"]
