"""Tells of each request once it is over, and knows which are under way.

Telling takes some hundred microseconds, so it is put off; who reads the metrics has all of them told first.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from prometheus_client import CollectorRegistry

from app.core.call import Call
from app.telemetry import access
from app.telemetry import instruments as these
from app.telemetry.later import Later
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
        self._active: dict[int, tuple[Call, Begun | None]] = {}
        self._later = Later()

    def close(self) -> None:
        """Send what has not been sent; may take seconds where nobody receives it."""
        self.flush()
        for close in self._closers:
            close()

    def begin(self, call: Call) -> None:
        call.keeps_content = self._keeps_content
        self._active[id(call)] = call, self._spans.begin(call)

    def end(self, call: Call) -> None:
        """The request is over; it is told of within a second."""
        self._later.add(partial(self._tell, *self._active.pop(id(call))))

    def flush(self) -> None:
        """Tell at once of all that is over."""
        self._later.flush()

    def _tell(self, call: Call, begun: Begun | None) -> None:
        self.metrics.record(call)
        if begun is not None:
            self._spans.end(begun, call)
        access.log(call)

    def active(self, models: Iterable[str]) -> Iterator[tuple[float, Attributes]]:
        """The requests to models that are under way; 0 for each of `models` that has none."""
        calls = [call for call, _ in list(self._active.values()) if call.operation]
        whose = (self.metrics.model(call) | self.metrics.key(call) for call in calls)
        counts = Counter(tuple(attributes.items()) for attributes in whose)
        busy = {call.model for call in calls}
        for model in models:
            if model not in busy:
                yield 0, {these.MODEL: model}
        for attributes, count in counts.items():
            yield count, dict(attributes)
