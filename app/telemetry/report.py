"""Tells of each request once it is over, and knows which are under way."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry

from app.core.call import Call
from app.telemetry import instruments as these
from app.telemetry.metrics import Attributes, Metrics


class Telemetry:
    """All that is told of one server. `registry` holds its metrics for Prometheus."""

    def __init__(
        self, metrics: Metrics, registry: CollectorRegistry, closers: Sequence[Callable[[], None]] = ()
    ) -> None:
        self.metrics = metrics
        self.registry = registry
        self._closers = closers
        self._active: dict[int, Call] = {}

    def close(self) -> None:
        """Send what has not been sent; may take seconds where nobody receives it."""
        for close in self._closers:
            close()

    def begin(self, call: Call) -> None:
        self._active[id(call)] = call

    def end(self, call: Call) -> None:
        del self._active[id(call)]
        self.metrics.record(call)

    def active(self, models: Iterable[str]) -> Iterator[tuple[float, Attributes]]:
        """The requests to models that are under way; 0 for each of `models` that has none."""
        calls = [call for call in list(self._active.values()) if call.operation]
        whose = (self.metrics.model(call) | self.metrics.key(call) for call in calls)
        counts = Counter(tuple(attributes.items()) for attributes in whose)
        busy = {call.model for call in calls}
        for model in models:
            if model not in busy:
                yield 0, {these.MODEL: model}
        for attributes, count in counts.items():
            yield count, dict(attributes)
