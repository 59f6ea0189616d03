"""Requests are told of a moment after their end, a few at a time, and none is lost on the way."""

import asyncio

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from app.core.context import RequestContext
from app.telemetry.metrics import Metrics
from app.telemetry.report import Telemetry
from app.telemetry.spans import Spans
from tests.contexts import context

SOON_S = 5.0


class Told(Metrics):
    """Metrics that note the calls; one whose `model` is `bad` fails."""

    def __init__(self) -> None:
        super().__init__(MeterProvider(shutdown_on_exit=False).get_meter("test"))
        self.calls: asyncio.Queue[str] = asyncio.Queue()

    def record(self, ctx: RequestContext) -> None:
        if ctx.model == "bad":
            raise ValueError(ctx.model)
        self.calls.put_nowait(ctx.model)


def telemetry() -> tuple[Telemetry, Told]:
    told = Told()
    return Telemetry(told, Spans(None), CollectorRegistry()), told


def served(made: Telemetry, *models: str) -> None:
    for model in models:
        ctx = context(method="POST", path="/api/chat", model=model)
        made.begin(ctx)
        made.end(ctx)


async def eventually(told: Told, count: int) -> list[str]:
    """The next so many that are told of."""
    async with asyncio.timeout(SOON_S):
        return [await told.calls.get() for _ in range(count)]


async def test_an_end_costs_nothing_then_and_is_told_of_soon() -> None:
    made, told = telemetry()
    served(made, *map(str, range(100)))
    assert told.calls.empty()
    assert await eventually(told, 100) == [str(number) for number in range(100)]
    served(made, "again")
    assert await eventually(told, 1) == ["again"]


async def test_a_scrape_and_the_end_of_the_server_wait_for_nothing() -> None:
    made, told = telemetry()
    served(made, "first")
    made.flush()
    assert told.calls.get_nowait() == "first"
    served(made, "second")
    made.close()
    assert told.calls.get_nowait() == "second"


async def test_one_that_cannot_be_told_of_does_not_silence_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, told = telemetry()
    served(made, "bad", "good")
    assert await eventually(told, 1) == ["good"]
    served(made, "bad", "later")
    made.flush()
    assert told.calls.get_nowait() == "later"
    complaints = [each for each in caplog.records if each.levelname == "ERROR"]
    assert [str(each.exc_info[1]) for each in complaints if each.exc_info] == ["bad", "bad"]
