"""Records what happened in the instruments, with attributes whose values are bounded in number.

Models are named only where they are served and keys only by the ids that the server gave out. Where even
those are too many, the later ones are counted together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from app.core.call import Call
from app.telemetry import instruments as these
from app.telemetry.instruments import INSTRUMENTS, Instrument

UNKNOWN = "unknown"
"""The model of a request that named none that is served."""

OTHER = "other"
CANCELLED = "cancelled"
_MOST_NAMES = 256
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})
_SHORTEST_LOAD_NS = 1_000_000
"""A lease of a loaded engine takes microseconds and is no wait."""

Stage: TypeAlias = Literal["load", "engine"]
Attributes: TypeAlias = dict[str, str | int]
GivenAttributes: TypeAlias = Mapping[str, str | int] | None
Readings: TypeAlias = Callable[[], Iterable[tuple[float, Attributes]]]
"""Values of a gauge as they are now. It may be called from any thread."""


class Names:
    """The first names seen are themselves, later ones are `other`."""

    def __init__(self, most: int = _MOST_NAMES) -> None:
        self._most = most
        self._seen: set[str] = set()

    def bounded(self, name: str) -> str:
        if name in self._seen:
            return name
        if len(self._seen) >= self._most:
            return OTHER
        self._seen.add(name)
        return name


class Metrics:
    """The instruments of one server."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._models = Names()
        self._keys = Names()
        self._made = {each.name: _make(meter, each) for each in INSTRUMENTS if not _is_watched(each)}

    def watch(self, instrument: Instrument, readings: Readings) -> None:
        """Read a gauge, or a counter that is watched, whenever metrics are collected."""
        make = self._meter.create_observable_gauge
        if instrument.kind == "counter":
            make = self._meter.create_observable_counter
        make(instrument.name, [partial(_observations, readings)], instrument.unit, instrument.description)

    def count(self, counter: Instrument, attributes: GivenAttributes = None, amount: int = 1) -> None:
        self._made[counter.name].add(amount, attributes)

    def observe(self, histogram: Instrument, value: float, attributes: GivenAttributes = None) -> None:
        self._made[histogram.name].record(value, attributes)

    def begin_at_zero(self, models: Iterable[str], rejections: Iterable[str]) -> None:
        """Make the series that alerts look at, so that the first event is seen as a rise."""
        for model in models:
            of = self.named(model)
            for outcome in ("ok", "error"):
                self.count(these.LOADS, of | {these.OUTCOME: outcome}, 0)
            self.count(these.UNLOADS, of | {these.REASON: "died"}, 0)
            self.count(these.RESTARTS, of, 0)
            self.count(these.CANCELLATIONS, of, 0)
        for reason in rejections:
            self.count(these.REJECTIONS, {these.REASON: reason}, 0)
        for outcome in ("ok", "error"):
            self.count(these.KEY_RELOADS, {these.OUTCOME: outcome}, 0)
        self.count(these.STORE_FAILURES, amount=0)
        for reason in ("rate", "silent"):
            self.count(these.PEER_FAILURES, {these.REASON: reason}, 0)

    def keys_reloaded(self, outcome: Literal["ok", "error"]) -> None:
        self.count(these.KEY_RELOADS, {these.OUTCOME: outcome})

    def peer_left_out(self, reason: Literal["rate", "silent"]) -> None:
        self.count(these.PEER_FAILURES, {these.REASON: reason})

    def record(self, call: Call) -> None:
        """All that a request adds, once it is over."""
        kind = error_of(call)
        error: Attributes = {these.ERROR: kind} if kind else {}
        self.observe(these.HTTP_DURATION, call.duration_ns / 1e9, _http(call, error))
        key = self.key(call)
        if call.rejection:
            self.count(these.REJECTIONS, {these.REASON: call.rejection} | key)
        if call.operation:
            self._record_model(call, self.model(call) | key, error)

    def model(self, call: Call) -> Attributes:
        return self.named(call.model) if call.model else {these.MODEL: UNKNOWN}

    def named(self, model: str) -> Attributes:
        return {these.MODEL: self._models.bounded(model)}

    def key(self, call: Call) -> Attributes:
        key_id = call.caller.key_id
        return {these.KEY: self._keys.bounded(key_id)} if key_id else {}

    def _record_model(self, call: Call, whose: Attributes, error: Attributes) -> None:
        of = {these.OPERATION: call.operation} | whose
        self.observe(these.REQUEST_DURATION, call.duration_ns / 1e9, of | _status(call) | error)
        if call.outcome == "cancelled":
            self.count(these.CANCELLATIONS, whose)
        for kind, tokens in (("input", call.prompt_tokens), ("output", call.output_tokens)):
            if tokens:
                self.observe(these.TOKENS, tokens, of | {these.TOKEN_TYPE: kind})
        for stage, waited_ns in _waits(call):
            self.observe(these.QUEUE_DURATION, waited_ns / 1e9, whose | {these.STAGE: stage})
        if not error and call.first_token_ns:
            self.observe(these.FIRST_TOKEN, call.first_token_ns / 1e9, of)
            if call.output_tokens > 1:
                self.observe(these.PER_TOKEN, call.decode_ns / (call.output_tokens - 1) / 1e9, of)


def _http(call: Call, error: Attributes) -> Attributes:
    attributes: Attributes = {these.METHOD: call.method if call.method in _METHODS else "_OTHER"}
    if call.route:
        attributes[these.ROUTE] = call.route
    return attributes | _status(call) | error


def _status(call: Call) -> Attributes:
    return {these.STATUS: call.status} if call.status else {}


def error_of(call: Call) -> str:
    """`error.type` by the conventions: the class of the error, else the status; empty for a success."""
    if call.outcome == "ok":
        return ""
    return CANCELLED if call.outcome == CANCELLED else call.failure or str(call.status)


def _waits(call: Call) -> Iterator[tuple[Stage, int]]:
    if call.load_ns >= _SHORTEST_LOAD_NS:
        yield "load", call.load_ns
    if call.queue_ns:
        yield "engine", call.queue_ns


def _is_watched(instrument: Instrument) -> bool:
    return instrument.watched or instrument.kind == "gauge"


def _make(meter: Meter, instrument: Instrument) -> Any:
    if instrument.kind == "counter":
        return meter.create_counter(instrument.name, instrument.unit, instrument.description)
    return meter.create_histogram(
        instrument.name,
        instrument.unit,
        instrument.description,
        explicit_bucket_boundaries_advisory=[float(bound) for bound in instrument.buckets],
    )


def _observations(readings: Readings, _: CallbackOptions) -> list[Observation]:
    return [Observation(value, attributes) for value, attributes in readings()]
