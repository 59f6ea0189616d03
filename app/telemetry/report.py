"""Tells of each request once it is over, and knows which are under way.

Telling takes some hundred microseconds, and requests that were batched together end together, just when
others wait for their first token. So it is put off until those are under way, and done for a few requests at
a time; who reads the metrics has all of them told first.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry

from app.core.call import Call
from app.telemetry import access
from app.telemetry import instruments as these
from app.telemetry.metrics import Attributes, Metrics
from app.telemetry.spans import Begun, Spans

_log = logging.getLogger("caravan")
_LATER_S = 0.25
_NEXT_S = 0.005
_AT_ONCE = 4


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
        self._over: deque[tuple[Call, Begun | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

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
        self._over.append(self._active.pop(id(call)))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LATER_S, self._tell_some)

    def flush(self) -> None:
        """Tell at once of all that is over."""
        while self._over:
            self._tell(*self._over.popleft())

    def _tell_some(self) -> None:
        """More at a time where many wait, so that the row of them does not grow for ever."""
        self._timer = None
        for _ in range(min(len(self._over), _AT_ONCE + len(self._over) // 8)):
            self._tell(*self._over.popleft())
        if self._over:
            self._timer = asyncio.get_running_loop().call_later(_NEXT_S, self._tell_some)

    def _tell(self, call: Call, begun: Begun | None) -> None:
        """One that cannot be told of is no reason to be silent of others, or to fail a scrape."""
        try:
            self.metrics.record(call)
            if begun is not None:
                self._spans.end(begun, call)
            access.log(call)
        except Exception:
            _log.exception("request %s could not be told of", call.request_id)

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
