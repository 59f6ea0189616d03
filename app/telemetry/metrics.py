"""Records what happened in the instruments, with attributes whose values are bounded in number.

Models are named only where they are served and keys only by the ids that the server gave out. Where even
those are too many, the later ones are counted together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from app.core.context import RequestContext, ToolReport
from app.telemetry import instruments
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


class CardinalityCap:
    """A cardinality cap for one label: the first names seen are themselves, later ones are `other`."""

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
        self._models = CardinalityCap()
        self._keys = CardinalityCap()
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
                self.count(instruments.LOADS, of | {instruments.OUTCOME: outcome}, 0)
            self.count(instruments.UNLOADS, of | {instruments.REASON: "died"}, 0)
            self.count(instruments.RESTARTS, of, 0)
            self.count(instruments.CANCELLATIONS, of, 0)
        for reason in rejections:
            self.count(instruments.REJECTIONS, {instruments.REASON: reason}, 0)
        for outcome in ("ok", "error"):
            self.count(instruments.KEY_RELOADS, {instruments.OUTCOME: outcome}, 0)
        self.count(instruments.STORE_FAILURES, amount=0)
        self.count(instruments.PAGE_REFUSALS, amount=0)
        for reason in ("rate", "silent"):
            self.count(instruments.PEER_FAILURES, {instruments.REASON: reason}, 0)

    def keys_reloaded(self, outcome: Literal["ok", "error"]) -> None:
        self.count(instruments.KEY_RELOADS, {instruments.OUTCOME: outcome})

    def peer_left_out(self, reason: Literal["rate", "silent"]) -> None:
        self.count(instruments.PEER_FAILURES, {instruments.REASON: reason})

    def page_refused(self, _host: str) -> None:
        self.count(instruments.PAGE_REFUSALS)

    def record(self, ctx: RequestContext) -> None:
        """All that a request adds, once it is over."""
        kind = error_of(ctx)
        error: Attributes = {instruments.ERROR: kind} if kind else {}
        self.observe(instruments.HTTP_DURATION, ctx.duration_ns / 1e9, _http(ctx, error))
        key = self.key(ctx)
        if ctx.rejection:
            self.count(instruments.REJECTIONS, {instruments.REASON: ctx.rejection} | key)
        for report in ctx.tools:
            self._record_tool(report, key)
        if ctx.operation:
            self._record_model(ctx, self.model(ctx) | key, error)

    def model(self, ctx: RequestContext) -> Attributes:
        return self.named(ctx.model) if ctx.model else {instruments.MODEL: UNKNOWN}

    def named(self, model: str) -> Attributes:
        return {instruments.MODEL: self._models.bounded(model)}

    def key(self, ctx: RequestContext) -> Attributes:
        key_id = ctx.caller.key_id
        return {instruments.KEY: self._keys.bounded(key_id)} if key_id else {}

    def _record_tool(self, report: ToolReport, key: Attributes) -> None:
        tool: Attributes = {instruments.TOOL: report.tool}
        self.count(instruments.TOOL_CALLS, tool | key | {instruments.OUTCOME: outcome_of(report)})
        self.observe(instruments.TOOL_DURATION, report.duration_ns / 1e9, tool)
        self.count(instruments.TOOL_RECEIVED, tool, report.received_bytes)

    def _record_model(self, ctx: RequestContext, whose: Attributes, error: Attributes) -> None:
        of = {instruments.OPERATION: ctx.operation} | whose
        self.observe(instruments.REQUEST_DURATION, ctx.duration_ns / 1e9, of | _status(ctx) | error)
        if ctx.outcome == "cancelled":
            self.count(instruments.CANCELLATIONS, whose)
        for kind, tokens in (("input", ctx.work.prompt_tokens), ("output", ctx.work.output_tokens)):
            if tokens:
                self.observe(instruments.TOKENS, tokens, of | {instruments.TOKEN_TYPE: kind})
        for stage, waited_ns in _waits(ctx):
            self.observe(instruments.QUEUE_DURATION, waited_ns / 1e9, whose | {instruments.STAGE: stage})
        if not error and ctx.work.first_token_ns:
            self.observe(instruments.FIRST_TOKEN, ctx.work.first_token_ns / 1e9, of)
            if ctx.work.output_tokens > 1:
                self.observe(
                    instruments.PER_TOKEN, ctx.work.decode_ns / (ctx.work.output_tokens - 1) / 1e9, of
                )


def outcome_of(report: ToolReport) -> Literal["ok", "error", "refused"]:
    if report.refused:
        return "refused"
    return "error" if report.failure else "ok"


def _http(ctx: RequestContext, error: Attributes) -> Attributes:
    attributes: Attributes = {instruments.METHOD: ctx.method if ctx.method in _METHODS else "_OTHER"}
    if ctx.route:
        attributes[instruments.ROUTE] = ctx.route
    return attributes | _status(ctx) | error


def _status(ctx: RequestContext) -> Attributes:
    return {instruments.STATUS: ctx.status} if ctx.status else {}


def error_of(ctx: RequestContext) -> str:
    """`error.type` by the conventions: the class of the error, else the status; empty for a success."""
    if ctx.outcome == "ok":
        return ""
    return CANCELLED if ctx.outcome == CANCELLED else ctx.failure or str(ctx.status)


def _waits(ctx: RequestContext) -> Iterator[tuple[Stage, int]]:
    if ctx.work.load_ns >= _SHORTEST_LOAD_NS:
        yield "load", ctx.work.load_ns
    if ctx.work.queue_ns:
        yield "engine", ctx.work.queue_ns


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
