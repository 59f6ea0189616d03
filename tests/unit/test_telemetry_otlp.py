"""Which variables switch the sending on, and by which protocol."""

import pytest

from app.settings.environment import BadSetting
from app.settings.otlp import read_otlp
from app.telemetry.otlp import Otlp

BASE = "OTEL_EXPORTER_OTLP"
URL = "http://127.0.0.1:4318"


@pytest.mark.parametrize(
    ("variables", "protocol"),
    [
        ({}, None),
        ({f"{BASE}_ENDPOINT": ""}, None),
        ({f"{BASE}_ENDPOINT": URL}, "http/protobuf"),
        ({f"{BASE}_METRICS_ENDPOINT": URL}, "http/protobuf"),
        ({f"{BASE}_PROTOCOL": "grpc"}, None),
        ({f"{BASE}_ENDPOINT": URL, f"{BASE}_PROTOCOL": "grpc"}, "grpc"),
        (
            {
                f"{BASE}_ENDPOINT": URL,
                f"{BASE}_PROTOCOL": "grpc",
                f"{BASE}_METRICS_PROTOCOL": "http/protobuf",
            },
            "http/protobuf",
        ),
        ({f"{BASE}_ENDPOINT": URL, "OTEL_METRICS_EXPORTER": "none"}, None),
    ],
)
def test_metrics_are_sent_where_a_receiver_is_named(
    variables: dict[str, str], protocol: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert read_otlp().metrics == protocol


def test_nothing_is_sent_by_default() -> None:
    assert read_otlp() == Otlp()


def test_a_protocol_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{BASE}_ENDPOINT", URL)
    monkeypatch.setenv(f"{BASE}_PROTOCOL", "carrier-pigeon")
    with pytest.raises(BadSetting, match=f"{BASE}_PROTOCOL: 'carrier-pigeon' is not one of"):
        read_otlp()
