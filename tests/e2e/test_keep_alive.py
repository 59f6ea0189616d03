"""How long a model stays loaded, as `/api/ps` tells it (docs/reference 4.1)."""

import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from harness.models.catalogue import GREETING
from tests.e2e.ollama_lines import JSON, generate, lines, text

pytestmark = pytest.mark.engine

MODEL = "tool"
CENTURY_S = 100 * 365 * 86400
GONE_S = 30.0


def seconds_left(client: httpx.Client) -> float | None:
    """Until the model expires; None when it is not loaded."""
    for row in client.get("/api/ps").json()["models"]:
        if row["name"] == f"{MODEL}:latest":
            return (datetime.fromisoformat(row["expires_at"]) - datetime.now(UTC)).total_seconds()
    return None


def load(client: httpx.Client, **fields: Any) -> None:
    assert generate(client, MODEL, **fields).json()["done_reason"] == "load"


@pytest.mark.point(98, 99, 100, 101, 102)
@pytest.mark.parametrize("route", ["generate", "chat", "embed", "embeddings"])
@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ("abc", 'time: invalid duration "abc"'),
        ("10", 'time: missing unit in duration "10"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("", 'time: invalid duration ""'),
        ("5 m", 'time: unknown unit " m" in duration "5 m"'),
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
    ],
)
def test_what_is_no_duration(client: httpx.Client, route: str, sent: Any, error: str) -> None:
    answer = client.post(f"/api/{route}", json={"model": "nosuch", "keep_alive": sent})
    assert (answer.status_code, answer.json()) == (400, {"error": error})
    assert answer.headers["content-type"] == JSON


@pytest.mark.point(103)
@pytest.mark.parametrize("sent", [-1, -0.5, "-5m", "-1s"])
def test_a_negative_time_is_for_ever(client: httpx.Client, sent: Any) -> None:
    load(client, keep_alive=5)
    load(client, keep_alive=sent)
    left = seconds_left(client)
    assert left is not None
    assert left > CENTURY_S


@pytest.mark.point(104)
@pytest.mark.parametrize(("sent", "expected"), [(10, 10), (90.5, 90.5), ("1h30m", 5400), ("20s", 20)])
def test_a_time_from_now(client: httpx.Client, sent: Any, expected: float) -> None:
    load(client, keep_alive=sent)
    assert seconds_left(client) == pytest.approx(expected, abs=2)


@pytest.mark.point(105)
@pytest.mark.parametrize("fields", [{"keep_alive": None}, {}])
def test_no_time_keeps_the_one_before(client: httpx.Client, fields: dict[str, Any]) -> None:
    load(client, keep_alive=10)
    load(client, **fields)
    assert seconds_left(client) == pytest.approx(10, abs=2)


def test_the_time_starts_again_when_a_request_ends(client: httpx.Client) -> None:
    load(client, keep_alive=60)
    before = seconds_left(client)
    assert text(lines(generate(client, MODEL, prompt="Hello", think=False, options={"temperature": 0})))
    after = seconds_left(client)
    assert before is not None
    assert after is not None
    assert before - 2 < after <= 60


@pytest.mark.point(104)
def test_a_model_is_gone_when_its_time_is_over(client: httpx.Client) -> None:
    load(client, keep_alive=1.5)
    assert seconds_left(client) == pytest.approx(1.5, abs=1.5)
    deadline = time.monotonic() + GONE_S
    while seconds_left(client) is not None:
        assert time.monotonic() < deadline


@pytest.mark.point(106)
@pytest.mark.parametrize("sent", [0, "0s"])
def test_an_answer_with_no_time_left_is_whole_and_the_model_goes(client: httpx.Client, sent: Any) -> None:
    fields = {"think": False, "options": {"temperature": 0}, "keep_alive": sent}
    parts = lines(generate(client, MODEL, prompt="Hello", **fields))
    assert text(parts) == GREETING
    assert parts[-1]["done_reason"] == "stop"
    deadline = time.monotonic() + GONE_S
    while seconds_left(client) is not None:
        assert time.monotonic() < deadline
