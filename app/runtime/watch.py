"""The gauges: what there is to see of a running server whenever somebody looks."""

from collections.abc import Iterator
from functools import partial

from app.catalogue.library import Library
from app.core import tasks
from app.core.errors import AppError
from app.runtime.leases import Leases
from app.runtime.lifecycle import Lifecycle
from app.telemetry import instruments
from app.telemetry.metrics import Attributes
from app.telemetry.report import Telemetry


def watch(telemetry: Telemetry, library: Library, manager: Leases, lifecycle: Lifecycle) -> None:
    """Have the gauges read whenever metrics are collected, and every series of events begin at 0."""
    watch_requests(telemetry, library)
    metrics = telemetry.metrics
    metrics.watch(instruments.SERVER_READY, lambda: [(int(not (manager.down or lifecycle.draining)), {})])
    metrics.watch(instruments.READY, partial(_ready, library, manager))
    metrics.watch(instruments.QUEUE_DEPTH, partial(_queued, manager))
    metrics.watch(instruments.DEVICE_MEMORY, partial(_memory, manager))
    metrics.watch(instruments.ASLEEP, partial(_asleep, library, manager))
    metrics.watch(instruments.SLEEP_MEMORY, partial(_sleep_memory, manager))


def watch_requests(telemetry: Telemetry, library: Library) -> None:
    """As `watch`, for a process that takes requests and has no engines."""
    metrics = telemetry.metrics
    metrics.begin_at_zero(_names(library), _rejections(AppError))
    library.on_new = lambda names: metrics.begin_at_zero(names, ())
    metrics.watch(instruments.ACTIVE, lambda: telemetry.active(_names(library)))
    metrics.watch(instruments.TASK_FAILURES, _task_failures)


def _names(library: Library) -> list[str]:
    return [str(model.name) for model in library.all()]


def _ready(library: Library, manager: Leases) -> Iterator[tuple[float, Attributes]]:
    for model in library.all():
        yield int(manager.ready(model)), {instruments.MODEL: str(model.name)}


def _asleep(library: Library, manager: Leases) -> Iterator[tuple[float, Attributes]]:
    asleep = {model.engine_key for model in manager.asleep()}
    for model in library.all():
        yield int(model.engine_key in asleep), {instruments.MODEL: str(model.name)}


def _sleep_memory(manager: Leases) -> Iterator[tuple[float, Attributes]]:
    for state, count in zip(("total", "promised"), manager.asleep_bytes(), strict=True):
        yield count, {instruments.STATE: state}


def _queued(manager: Leases) -> Iterator[tuple[float, Attributes]]:
    yield manager.waiting, {instruments.STAGE: "load"}
    for model, waiting in manager.queued():
        yield waiting, {instruments.STAGE: "engine", instruments.MODEL: str(model.name)}


def _memory(manager: Leases) -> Iterator[tuple[float, Attributes]]:
    for device, promised in manager.memory():
        for state, count in (("total", device.total), ("free", device.free), ("promised", promised)):
            yield count, {instruments.DEVICE: str(device.index), instruments.STATE: state}


def _task_failures() -> Iterator[tuple[float, Attributes]]:
    for name in tasks.NAMES:
        yield tasks.deaths[name], {instruments.TASK: name}


def _rejections(error: type[AppError]) -> Iterator[str]:
    """Every reason that an error has for turning a request away."""
    if "rejection" in vars(error) and error.rejection:
        yield error.rejection
    for each in error.__subclasses__():
        yield from _rejections(each)
