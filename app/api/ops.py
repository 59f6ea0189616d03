"""For the operator: is the process alive, has it started, can it answer, and what do its engines count."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import Response

from app.api.guard import needs
from app.api.services import Served, Services

router = APIRouter()


@router.get("/livez")
@needs("nothing")
async def livez() -> Response:
    return Response("ok", media_type="text/plain")


@router.get("/startupz")
@needs("nothing")
async def startupz(served: Served) -> Response:
    """Green from the end of the first load on, or at once where nothing is loaded at start."""
    return _probe([] if served.manager.started else _troubles(served))


@router.get("/readyz")
@needs("nothing")
async def readyz(served: Served) -> Response:
    """Red while a model that is to be loaded is not, and once the server drains."""
    if served.lifecycle.draining:
        return _probe(["the server is shutting down"])
    return _probe(_troubles(served))


def _troubles(served: Services) -> list[str]:
    return [f"{down.model.name}: {down.trouble}" for down in served.manager.down]


def _probe(troubles: list[str]) -> Response:
    status = HTTPStatus.SERVICE_UNAVAILABLE if troubles else HTTPStatus.OK
    return Response("\n".join(troubles) or "ok", status, media_type="text/plain")


@router.get("/metrics")
@needs("metrics")
async def metrics(served: Served) -> Response:
    """Caravan's metrics, and vLLM's own of every loaded engine; `model_name` tells those apart."""
    served.telemetry.flush()
    engines = [engine for _, engine in served.manager.engines()]
    merged = CollectorRegistry()
    told: list[Collector] = [served.telemetry.registry]
    if served.others is None:
        told += [each.registry for each in engines if each.registry is not None]
    else:
        told.append(_Told(await served.others.families(engines)))
    merged.register(_Merged(told))
    return Response(generate_latest(merged), media_type=CONTENT_TYPE_LATEST)


class _Told(Collector):
    """What other processes have told."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Merged(Collector):
    """Several registries as one: families of the same name are joined, as the text format demands."""

    def __init__(self, registries: Sequence[Collector]) -> None:
        self._registries = registries

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for registry in self._registries:
            for family in registry.collect():
                known = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type, family.unit)
                )
                known.samples += family.samples
        return families.values()
