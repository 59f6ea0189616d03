"""Where telemetry goes, by OpenTelemetry's standard variables."""

import os

from app.settings.environment import BadSetting, trimmed
from app.telemetry.otlp import PROTOCOLS, Otlp, Protocol


def read_otlp() -> Otlp:
    """Where telemetry is sent, by OpenTelemetry's standard variables.

    Raises:
        BadSetting: for a protocol that is not known.
    """
    return Otlp(metrics=_otlp_protocol("METRICS"), traces=_otlp_protocol("TRACES"))


def hand_down(otlp: Otlp) -> None:
    """Tell vLLM's processes the protocol: they know this variable alone and would take gRPC."""
    if otlp.traces:
        os.environ.setdefault("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", otlp.traces)


def _otlp_protocol(signal: str) -> Protocol | None:
    """None where no receiver of the signal is named, or none is wanted."""
    variables = trimmed(os.environ)
    either = (f"OTEL_EXPORTER_OTLP_{signal}_", "OTEL_EXPORTER_OTLP_")
    if variables.get(f"OTEL_{signal}_EXPORTER") == "none":
        return None
    if not any(f"{prefix}ENDPOINT" in variables for prefix in either):
        return None
    for name in (f"{prefix}PROTOCOL" for prefix in either):
        if asked := variables.get(name):
            if asked not in PROTOCOLS:
                raise BadSetting(f"{name}: {asked!r} is not one of {', '.join(sorted(PROTOCOLS))}")
            return PROTOCOLS[asked]
    return "http/protobuf"
