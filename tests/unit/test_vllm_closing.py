"""Reasoning that the model does not end: it is ended for it, and the constrained answer follows."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.core.errors import ConstraintFailed
from app.core.events import Delta, Timings
from app.core.request import Constraint, Sampling
from app.engine.base import Prompt, Run
from app.engine.vllm.stream.closing import closed

TAG = Prompt("</think>", [7])
END = 9
PROMPT = Prompt("Hi<think>", [1, 2], payload={"type": "token", "prompt_token_ids": [1, 2], "cache_salt": "s"})


class Scripted:
    def __init__(self, deltas: Sequence[Delta | Exception]) -> None:
        self._deltas = iter(deltas)
        self.decoder = None

    async def next(self) -> Delta:
        delta = next(self._deltas)
        if isinstance(delta, Exception):
            raise delta
        return delta


@dataclass
class Asked:
    """The requests that came, and how many of them are under way."""

    answers: list[Sequence[Delta | Exception]]
    runs: list[tuple[Prompt, Run, bool]] = field(default_factory=list[tuple[Prompt, Run, bool]])
    open: int = 0

    @asynccontextmanager
    async def __call__(
        self, prompt: Prompt, run: Run, reasoning_ended: bool
    ) -> AsyncGenerator[Scripted, None]:
        assert self.open == 0
        self.runs.append((prompt, run, reasoning_ended))
        self.open += 1
        try:
            yield Scripted(self.answers[len(self.runs) - 1])
        finally:
            self.open -= 1
            run.usage.prompt_tokens, run.usage.output_tokens = len(prompt.token_ids), 2 * len(self.runs)


async def read(asked: Asked, **options: object) -> tuple[list[Delta], Run]:
    run = Run(Sampling(**options), max_tokens=10, constraint=Constraint())  # type: ignore[arg-type]
    found: list[Delta] = []
    async with closed(asked, PROMPT, run, TAG) as answer:
        while not found or found[-1].finish is None:
            found.append(await answer.next())
    assert asked.open == 0
    return found, run


def ended(
    text: str, token_ids: list[int], finish: str = "stop", *, output: int = 0, matched_stop: str = ""
) -> Delta:
    return Delta(
        text,
        token_ids,
        None,
        finish,  # type: ignore[arg-type]
        prompt_tokens=99,
        output_tokens=output or len(token_ids),
        timings=Timings(10, 20),
        cached_tokens=77,
        matched_stop=matched_stop,
    )


async def test_an_answer_that_ends_within_its_reasoning_has_it_closed_and_goes_on() -> None:
    first = [Delta("hm", [3], prompt_tokens=2, cached_tokens=1), ended("", [END], output=2)]
    asked = Asked([first, [Delta("{", [4], prompt_tokens=5, cached_tokens=4), ended("}", [5, END])]])
    found, run = await read(asked, min_tokens=3)
    assert "".join(delta.text for delta in found) == "hm</think>{}"
    assert [each for delta in found for each in delta.token_ids] == [3, 7, 4, 5, END]
    prompt, rest, reasoning_ended = asked.runs[1]
    assert reasoning_ended
    assert prompt.token_ids == [1, 2, 3, 7]
    assert prompt.payload == {"type": "token", "prompt_token_ids": [1, 2, 3, 7], "cache_salt": "s"}
    assert (rest.max_tokens, rest.sampling.min_tokens, rest.constraint) == (8, 1, run.constraint)
    last = found[-1]
    assert (last.prompt_tokens, last.cached_tokens, last.output_tokens) == (2, 77, 4)
    assert last.timings == Timings(20, 40)
    assert (run.usage.prompt_tokens, run.usage.output_tokens) == (2, 2 + 4)


@pytest.mark.parametrize(
    "first",
    [
        [Delta("hm</think>", [3, 7]), ended("{}", [4, END])],
        [Delta("hm</thi", [3]), ended("nk>{}", [7, 4, END])],
        [Delta("hm", [3]), ended("", [4], "length")],
        [Delta("hm", [3]), ended("", [4], matched_stop="x")],
        [Delta("hm", [3]), ended("", [8])],
    ],
    ids=["closed", "closed across deltas", "length", "stop string", "the client's stop token"],
)
async def test_what_ends_in_another_way_is_left_as_it_is(first: list[Delta]) -> None:
    asked = Asked([first])
    found, run = await read(asked, stop_token_ids=(8,))
    assert found == first
    assert len(asked.runs) == 1
    assert run.usage.output_tokens == 2


async def test_without_room_for_the_rest_the_length_ended_it() -> None:
    asked = Asked([[Delta("x", [3] * 9), ended("", [END], output=10)]])
    found, _ = await read(asked)
    assert (found[-1].finish, found[-1].output_tokens) == ("length", 10)


async def test_reasoning_that_the_core_takes_for_ended_is_closed_before_what_it_took_for_the_answer() -> None:
    asked = Asked([[Delta("hm", [3]), ConstraintFailed()], [ended("{}", [4, END])]])
    found, _ = await read(asked)
    assert "".join(delta.text for delta in found) == "hm</think>{}"
    assert asked.runs[1][0].token_ids == [1, 2, 3, 7]


async def test_a_grammar_that_gives_up_after_the_reasoning_is_a_failure() -> None:
    with pytest.raises(ConstraintFailed):
        await read(Asked([[Delta("hm</think>", [3, 7]), ConstraintFailed()]]))
    with pytest.raises(ConstraintFailed):
        await read(Asked([[ended("hm", [3, END])], [ConstraintFailed()]]))
