"""What one `Call` adds to the metrics, and how many names there may be."""

from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from app.core.call import Call, Caller
from app.telemetry import instruments as these
from app.telemetry.instruments import INSTRUMENTS
from app.telemetry.metrics import Metrics, Names

SECOND = 1_000_000_000
OK: dict[str, Any] = {"method": "POST", "route": "/api/chat", "status": 200, "answered": True}
CHAT: dict[str, Any] = {**OK, "operation": "chat", "model": "m:latest", "duration_ns": 3 * SECOND}


def chat(**changes: Any) -> Call:
    return Call(**(CHAT | changes))


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


def told(call: Call) -> dict[str, list[tuple[dict[str, Any], float]]]:
    meter = Meter()
    meter.metrics.record(call)
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
    whose = {these.MODEL: "m:latest", these.KEY: "k1"}
    of = {these.OPERATION: "chat", **whose}
    assert points[these.REQUEST_DURATION.name] == [(of | {these.STATUS: 200}, 3)]
    assert points[these.FIRST_TOKEN.name] == [(of, 1)]
    assert points[these.PER_TOKEN.name] == [(of, 0.5)]
    assert points[these.TOKENS.name] == [
        ({**of, these.TOKEN_TYPE: "input"}, 7),
        ({**of, these.TOKEN_TYPE: "output"}, 5),
    ]
    assert points[these.QUEUE_DURATION.name] == [
        ({**whose, these.STAGE: "load"}, 1),
        ({**whose, these.STAGE: "engine"}, 0.5),
    ]
    assert these.CANCELLATIONS.name not in points
    assert these.REJECTIONS.name not in points


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
    ((attributes, _),) = points[these.REQUEST_DURATION.name]
    assert attributes[these.ERROR] == error
    ((attributes, _),) = points[these.HTTP_DURATION.name]
    assert attributes[these.ERROR] == error
    assert (these.CANCELLATIONS.name in points) == (error == "cancelled")
    assert these.FIRST_TOKEN.name not in points
    assert these.PER_TOKEN.name not in points
    assert points[these.TOKENS.name][0][1] == 3


def test_one_token_has_no_time_per_token() -> None:
    points = told(chat(output_tokens=1, first_token_ns=1, decode_ns=1))
    assert these.FIRST_TOKEN.name in points
    assert these.PER_TOKEN.name not in points


def test_a_request_to_no_model_is_only_an_http_request() -> None:
    assert set(told(Call(**OK))) == {these.HTTP_DURATION.name}


def test_a_refusal_is_counted_by_reason_and_key() -> None:
    points = told(chat(operation="", status=429, rejection="rate", caller=Caller(key_id="k1")))
    assert points[these.REJECTIONS.name] == [({these.REASON: "rate", these.KEY: "k1"}, 1)]


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
    series = meter.points()[these.REQUEST_DURATION.name]
    assert len(series) == 257
    other = {these.OPERATION: "chat", these.MODEL: "m:latest", these.KEY: "other", these.STATUS: 200}
    assert (other, 44 * 3) in series


def test_the_first_names_stay_themselves() -> None:
    names = Names(most=2)
    assert [names.bounded(each) for each in ("a", "b", "c", "a")] == ["a", "b", "other", "a"]
