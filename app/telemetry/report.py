"""Tells of each request once it is over, and knows which are under way.

Telling takes some hundred microseconds, so it is put off; who reads the metrics has all of them told first.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from prometheus_client import CollectorRegistry

from app.core.context import RequestContext
from app.core.deferred import DeferredQueue
from app.telemetry import access, instruments
from app.telemetry.metrics import Attributes, Metrics
from app.telemetry.spans import Begun, Spans


class Telemetry:
    """All that is told of one server. `registry` holds its metrics for Prometheus; `keeps_content` says
    whether prompts and answers are told of too."""

    def __init__(
        self,
        metrics: Metrics,
        spans: Spans,
        registry: CollectorRegistry,
        closers: Sequence[Callable[[], None]] = (),
        *,
        keeps_content: bool = False,
    ) -> None:
        self.metrics = metrics
        self.registry = registry
        self._closers = closers
        self._keeps_content = keeps_content
        self._spans = spans
        self._active: dict[int, tuple[RequestContext, Begun | None]] = {}
        self._deferred = DeferredQueue()

    def close(self) -> None:
        """Send what has not been sent; may take seconds where nobody receives it."""
        self.flush()
        for close in self._closers:
            close()

    def begin(self, ctx: RequestContext) -> None:
        ctx.keeps_content = self._keeps_content
        self._active[id(ctx)] = ctx, self._spans.begin(ctx)

    def end(self, ctx: RequestContext) -> None:
        """The request is over; it is told of within a second."""
        self._deferred.add(partial(self._tell, *self._active.pop(id(ctx))))

    def flush(self) -> None:
        """Tell at once of all that is over."""
        self._deferred.flush()

    def _tell(self, ctx: RequestContext, begun: Begun | None) -> None:
        self.metrics.record(ctx)
        if begun is not None:
            self._spans.end(begun, ctx)
        access.log_tools(ctx)
        access.log(ctx)

    def active(self, models: Iterable[str]) -> Iterator[tuple[float, Attributes]]:
        """The requests to models that are under way; 0 for each of `models` that has none."""
        calls = [ctx for ctx, _ in list(self._active.values()) if ctx.operation]
        whose = (self.metrics.model(ctx) | self.metrics.key(ctx) for ctx in calls)
        counts = Counter(tuple(attributes.items()) for attributes in whose)
        busy = {ctx.model for ctx in calls}
        for model in models:
            if model not in busy:
                yield 0, {instruments.MODEL: model}
        for attributes, count in counts.items():
            yield count, dict(attributes)
