"""What happens to engines, as metrics: the manager's observer."""

from app.core.model import Model
from app.telemetry import instruments
from app.telemetry.metrics import Attributes, Metrics


class EngineEvents:
    """Counts loads, unloads and restarts, sleeps and wakes. A death is an unload for the reason `died`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def loaded(self, model: Model, seconds: float) -> None:
        self._metrics.count(instruments.LOADS, self._of(model) | {instruments.OUTCOME: "ok"})
        self._metrics.observe(instruments.LOAD_DURATION, seconds, self._of(model))

    def load_failed(self, model: Model) -> None:
        self._metrics.count(instruments.LOADS, self._of(model) | {instruments.OUTCOME: "error"})

    def unloaded(self, model: Model, reason: str) -> None:
        self._metrics.count(instruments.UNLOADS, self._of(model) | {instruments.REASON: reason})

    def slept(self, model: Model, reason: str) -> None:
        self._metrics.count(instruments.SLEEPS, self._of(model) | {instruments.REASON: reason})

    def woken(self, model: Model, seconds: float) -> None:
        self._metrics.count(instruments.WAKES, self._of(model) | {instruments.OUTCOME: "ok"})
        self._metrics.observe(instruments.WAKE_DURATION, seconds, self._of(model))

    def not_woken(self, model: Model) -> None:
        self._metrics.count(instruments.WAKES, self._of(model) | {instruments.OUTCOME: "error"})

    def died(self, model: Model) -> None:
        """`unloaded` tells of it too."""

    def restarting(self, model: Model) -> None:
        """Counted when it has succeeded; an attempt that fails is a load that failed."""

    def restarted(self, model: Model) -> None:
        self._metrics.count(instruments.RESTARTS, self._of(model))

    def _of(self, model: Model) -> Attributes:
        return self._metrics.named(str(model.name))
