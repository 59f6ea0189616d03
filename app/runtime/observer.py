"""Who is told what happens to engines: the seam to telemetry. `Recorder` is the double."""

from typing import Literal, Protocol, TypeAlias

from app.core.model import Model

UnloadReason: TypeAlias = Literal["idle", "asked", "evicted", "reloaded", "shutdown", "died"]


class Observer(Protocol):
    """Told by the manager, on its event loop, so nothing here may wait or fail."""

    def loaded(self, model: Model, seconds: float) -> None: ...

    def load_failed(self, model: Model) -> None: ...

    def unloaded(self, model: Model, reason: UnloadReason) -> None:
        """An engine was taken away; after a death too."""
        ...

    def slept(self, model: Model, reason: UnloadReason) -> None:
        """An engine was put to sleep in place of being closed; `unloaded` tells of its end."""
        ...

    def woken(self, model: Model, seconds: float) -> None:
        """An engine was woken; nothing was loaded."""
        ...

    def not_woken(self, model: Model) -> None:
        """An engine could not be woken; `unloaded` tells that it goes, and a load follows."""
        ...

    def died(self, model: Model) -> None: ...

    def restarting(self, model: Model) -> None:
        """An attempt to load a model again begins, after its engine died or could not be loaded."""
        ...

    def restarted(self, model: Model) -> None:
        """A model is loaded again; `loaded` was told as well."""
        ...


class NullObserver:
    """An observer that nobody listens to."""

    def loaded(self, model: Model, seconds: float) -> None: ...

    def load_failed(self, model: Model) -> None: ...

    def unloaded(self, model: Model, reason: UnloadReason) -> None: ...

    def slept(self, model: Model, reason: UnloadReason) -> None: ...

    def woken(self, model: Model, seconds: float) -> None: ...

    def not_woken(self, model: Model) -> None: ...

    def died(self, model: Model) -> None: ...

    def restarting(self, model: Model) -> None: ...

    def restarted(self, model: Model) -> None: ...


class Recorder:
    """An observer that writes down what it was told: the event, the model's name and the reason if any."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def loaded(self, model: Model, seconds: float) -> None:
        self._note("loaded", model)

    def load_failed(self, model: Model) -> None:
        self._note("load failed", model)

    def unloaded(self, model: Model, reason: UnloadReason) -> None:
        self._note("unloaded", model, reason)

    def slept(self, model: Model, reason: UnloadReason) -> None:
        self._note("slept", model, reason)

    def woken(self, model: Model, seconds: float) -> None:
        self._note("woken", model)

    def not_woken(self, model: Model) -> None:
        self._note("not woken", model)

    def died(self, model: Model) -> None:
        self._note("died", model)

    def restarting(self, model: Model) -> None:
        self._note("restarting", model)

    def restarted(self, model: Model) -> None:
        self._note("restarted", model)

    def _note(self, event: str, model: Model, *more: str) -> None:
        self.events.append((event, str(model.name), *more))
