"""What one `RequestContext` adds to the metrics, and how many names there may be."""

from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from app.core.context import Caller, RequestContext
from app.telemetry import instruments
from app.telemetry.instruments import INSTRUMENTS
from app.telemetry.metrics import CardinalityCap, Metrics
from tests.contexts import context

SECOND = 1_000_000_000
OK: dict[str, Any] = {"method": "POST", "route": "/api/chat", "status": 200, "answered": True}
CHAT: dict[str, Any] = {**OK, "operation": "chat", "model": "m:latest", "duration_ns": 3 * SECOND}


def chat(**changes: Any) -> RequestContext:
    return context(**(CHAT | changes))


class Meter:
    """The metrics of a server, and what they have come to."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.metrics = Metrics(provider.get_meter("test"))

    def points(self) -> dict[str, list[tuple[dict[str, Any], float]]]:
        """By name: the attributes of each series and its sum."""
        found: dict[str, list[tuple[dict[str, Any], float]]] = {}
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = [
                        (dict(point.attributes or {}), getattr(point, "sum", getattr(point, "value", 0)))
                        for point in metric.data.data_points
                    ]
        return found


def told(ctx: RequestContext) -> dict[str, list[tuple[dict[str, Any], float]]]:
    meter = Meter()
    meter.metrics.record(ctx)
    return meter.points()


def test_all_times_and_counts_of_a_good_answer() -> None:
    points = told(
        chat(
            caller=Caller(key_id="k1"),
            prompt_tokens=7,
            output_tokens=5,
            load_ns=SECOND,
            queue_ns=SECOND // 2,
            decode_ns=2 * SECOND,
            first_token_ns=SECOND,
        )
    )
    whose = {instruments.MODEL: "m:latest", instruments.KEY: "k1"}
    of = {instruments.OPERATION: "chat", **whose}
    assert points[instruments.REQUEST_DURATION.name] == [(of | {instruments.STATUS: 200}, 3)]
    assert points[instruments.FIRST_TOKEN.name] == [(of, 1)]
    assert points[instruments.PER_TOKEN.name] == [(of, 0.5)]
    assert points[instruments.TOKENS.name] == [
        ({**of, instruments.TOKEN_TYPE: "input"}, 7),
        ({**of, instruments.TOKEN_TYPE: "output"}, 5),
    ]
    assert points[instruments.QUEUE_DURATION.name] == [
        ({**whose, instruments.STAGE: "load"}, 1),
        ({**whose, instruments.STAGE: "engine"}, 0.5),
    ]
    assert instruments.CANCELLATIONS.name not in points
    assert instruments.REJECTIONS.name not in points


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"failure": "EngineDied"}, "EngineDied"),
        ({"status": 500}, "500"),
        ({"answered": False}, "cancelled"),
        ({"answered": False, "status": 0}, "cancelled"),
        ({"answered": False, "failure": "EngineDied"}, "EngineDied"),
    ],
)
def test_what_did_not_succeed_has_an_error_type_and_no_token_times(
    changes: Mapping[str, Any], error: str
) -> None:
    points = told(chat(**changes, output_tokens=3, first_token_ns=1, decode_ns=1))
    ((attributes, _),) = points[instruments.REQUEST_DURATION.name]
    assert attributes[instruments.ERROR] == error
    ((attributes, _),) = points[instruments.HTTP_DURATION.name]
    assert attributes[instruments.ERROR] == error
    assert (instruments.CANCELLATIONS.name in points) == (error == "cancelled")
    assert instruments.FIRST_TOKEN.name not in points
    assert instruments.PER_TOKEN.name not in points
    assert points[instruments.TOKENS.name][0][1] == 3


def test_one_token_has_no_time_per_token() -> None:
    points = told(chat(output_tokens=1, first_token_ns=1, decode_ns=1))
    assert instruments.FIRST_TOKEN.name in points
    assert instruments.PER_TOKEN.name not in points


def test_a_request_to_no_model_is_only_an_http_request() -> None:
    assert set(told(context(**OK))) == {instruments.HTTP_DURATION.name}


def test_a_refusal_is_counted_by_reason_and_key() -> None:
    points = told(chat(operation="", status=429, rejection="rate", caller=Caller(key_id="k1")))
    assert points[instruments.REJECTIONS.name] == [({instruments.REASON: "rate", instruments.KEY: "k1"}, 1)]


def test_recorded_attributes_are_the_ones_the_guide_lists() -> None:
    meter = Meter()
    listed = {each.name: set(each.attributes) for each in INSTRUMENTS}
    used: dict[str, Any] = {
        "caller": Caller(key_id="k"),
        "prompt_tokens": 1,
        "output_tokens": 2,
        "first_token_ns": 1,
    }
    endings: list[dict[str, Any]] = [{}, {"failure": "EngineDied", "rejection": "rate"}, {"answered": False}]
    for ending in endings:
        meter.metrics.record(chat(**used, queue_ns=1, **ending))
    for name, series in meter.points().items():
        for attributes, _ in series:
            assert set(attributes) <= listed[name], name


def test_only_so_many_keys_have_a_name_of_their_own() -> None:
    meter = Meter()
    for number in range(300):
        meter.metrics.record(chat(caller=Caller(key_id=f"k{number}")))
    series = meter.points()[instruments.REQUEST_DURATION.name]
    assert len(series) == 257
    other = {
        instruments.OPERATION: "chat",
        instruments.MODEL: "m:latest",
        instruments.KEY: "other",
        instruments.STATUS: 200,
    }
    assert (other, 44 * 3) in series


def test_the_first_names_stay_themselves() -> None:
    names = CardinalityCap(most=2)
    assert [names.bounded(each) for each in ("a", "b", "c", "a")] == ["a", "b", "other", "a"]
