"""How many tokens go into a line, by what an engine makes."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.metrics.stats import IterationStats, RequestStateStats

from app.core.events import Delta
from app.engine.vllm.stream.client import TokenOutputs
from app.engine.vllm.stream.deltas import Deltas
from app.engine.vllm.stream.pace import Pace

pytestmark = pytest.mark.filterwarnings("ignore")


def run(pace: Pace, tokens_per_step: int, step_s: float, seconds: float, at_s: float = 0.0) -> float:
    for step in range(round(seconds / step_s)):
        pace.count(tokens_per_step, at_s + step * step_s)
    return at_s + seconds


@pytest.mark.parametrize(
    ("streams", "step_s", "expected"),
    [(1, 0.005, 1), (32, 0.25, 1), (64, 0.01, 1), (256, 0.012, 3), (512, 0.005, 13), (4096, 0.001, 16)],
)
def test_lines_are_as_many_as_a_core_sends(streams: int, step_s: float, expected: int) -> None:
    pace = Pace()
    assert pace.interval == 1
    run(pace, streams, step_s, 2.0)
    assert pace.interval == expected


def test_few_streams_have_lines_of_one_token_again() -> None:
    pace = Pace()
    end = run(pace, 512, 0.005, 1.0)
    assert pace.interval > 1
    run(pace, 4, 0.005, 1.0, end)
    assert pace.interval == 1
    end = run(pace, 512, 0.005, 1.0, end + 1.0)
    pace.count(4, end + 60.0)
    assert pace.interval == 1, "an idle time counts"


def test_a_fixed_number_stands() -> None:
    pace = Pace(4)
    assert pace.interval == 4
    run(pace, 4096, 0.001, 1.0)
    assert pace.interval == 4


class Words:
    """A detokenizer whose tokens are words."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []

    def decode_next(self, token_id: int) -> str:
        return f"{token_id} "


async def test_an_engine_that_pauses_holds_no_text() -> None:
    """Its next step may be a long prompt of somebody else."""
    outputs: Any = TokenOutputs(None, log_stats=True)
    outputs.pace = Pace(8)
    queues = {name: Deltas(name, lambda _: Delta("", []), pace=outputs.pace) for name in "ab"}
    for name, queue in queues.items():
        outputs.request_states[name] = SimpleNamespace(
            queue=queue, detokenizer=Words(), stats=RequestStateStats(), is_prefilling=False
        )
    outputs.process_outputs([EngineCoreOutput(name, [5, 6]) for name in "ab"], 1.0, IterationStats())
    outputs.process_outputs([EngineCoreOutput("a", [7])], 1.1, IterationStats())
    reading = [asyncio.ensure_future(queue.next()) for queue in queues.values()]
    await asyncio.sleep(0)
    assert not any(each.done() for each in reading)
    assert await asyncio.gather(*reading) == [Delta("5 6 7 ", [5, 6, 7]), Delta("5 6 ", [5, 6])]
    outputs.process_outputs([EngineCoreOutput("b", [1] * 8)], 1.2, IterationStats())
    assert (await queues["b"].next()).token_ids == [1] * 8
    for queue in queues.values():
        queue.close()
