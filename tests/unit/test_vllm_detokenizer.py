"""What is sent of a reply with stop strings, beside what vLLM's own detokenizer makes of the same tokens."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer
from vllm.v1.engine.output_processor import OutputProcessor
from vllm.v1.metrics.stats import IterationStats

from app.core.events import Delta
from app.engine.vllm.stream.client import TokenOutputs
from app.engine.vllm.stream.deltas import Deltas
from app.engine.vllm.stream.detokenizer import StoppingDetokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS = ("a", "b", "ab", "ba", "<", "<|", "|>", "", "é", "aab")
"""The text of each token; one is only part of a character."""

STEPS = st.lists(st.lists(st.integers(0, len(TOKENS) - 1), min_size=1, max_size=3), max_size=12)
STOPS = st.lists(st.text("ab<", min_size=1, max_size=5), min_size=1, max_size=4)


class Table(BaseIncrementalDetokenizer):
    def decode_next(self, next_token_id: int) -> str:
        return TOKENS[next_token_id]


def table(stops: list[str]) -> Table:
    params = SimpleNamespace(stop=stops, min_tokens=0, include_stop_str_in_output=False)
    return Table(SimpleNamespace(sampling_params=params))  # type: ignore[arg-type]


@given(STOPS, STEPS, st.booleans())
def test_text_stop_string_and_tokens_are_those_of_vllm(
    stops: list[str], steps: list[list[int]], ends: bool
) -> None:
    theirs, ours = table(stops), StoppingDetokenizer(table(stops))
    text = ""
    for number, step in enumerate(steps):
        stopped = ends and number == len(steps) - 1
        expected = theirs.update(list(step), stopped)
        if not stopped and (ready := ours.push(list(step))) is not None:
            text += ready
            assert expected is None
        else:
            assert ours.update(list(step), stopped) == expected
        assert ours.output_token_ids == theirs.output_token_ids
        if expected is not None:
            break
        # Never less than vLLM would have sent.
        text += ours.get_next_output_text(False, True)
        held = max(len(stop) for stop in stops) - 1
        assert theirs.output_text[: max(len(theirs.output_text) - held, 0)] in text
    assert text + ours.get_next_output_text(True, True) == theirs.output_text


@pytest.mark.parametrize(("least", "expected"), [(0, ""), (1, "ab"), (2, "abab"), (5, "ababab")])
def test_no_stop_string_counts_within_the_least_tokens(least: int, expected: str) -> None:
    inner = table(["ab"])
    inner.min_tokens = least
    ours = StoppingDetokenizer(inner)
    text = ""
    for _ in range(3):
        if (ready := ours.push([2])) is None:
            ours.update([2], False)
            break
        text += ready
    assert text + ours.get_next_output_text(True, True) == expected


def tokenizer() -> Any:
    """One that writes the text of each of `TOKENS` as it is."""
    made = Tokenizer(models.WordLevel({text or "?": number for number, text in enumerate(TOKENS)}, "?"))
    made.decoder = decoders.Fuse()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=made)


def request(stops: list[str]) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id="id",
        external_req_id="out",
        prompt_token_ids=[0],
        mm_features=None,
        sampling_params=SamplingParams(stop=stops, output_kind=RequestOutputKind.DELTA),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


class Run:
    """One request through an output processor: what was sent, and what it came to."""

    def __init__(
        self, processor: OutputProcessor, stops: list[str], hidden: frozenset[int] = frozenset()
    ) -> None:
        self.sent: list[str] = []
        self.token_ids: list[int] = []
        self.aborted: list[str] = []
        self.count = 0
        self._processor = processor
        self._deltas = Deltas("id", self._convert, hidden=hidden)
        processor.add_request(request(stops), None, queue=self._deltas)

    def step(self, token_ids: list[int], finish: FinishReason | None) -> None:
        made = EngineCoreOutput("id", list(token_ids), finish_reason=finish)
        stats = IterationStats()
        done = self._processor.process_outputs([made], 1.0, stats)
        self.aborted += done.reqs_to_abort
        self.count += stats.num_generation_tokens

    async def read(self) -> None:
        delta = await self._deltas.next()
        self.sent.append(delta.text)
        self.token_ids += delta.token_ids

    @property
    def going(self) -> bool:
        return self._processor.has_unfinished_requests()

    def _convert(self, output: RequestOutput) -> Delta:
        piece = output.outputs[0]
        return Delta(piece.text, list(piece.token_ids))


KIND = tokenizer()


@given(STOPS, STEPS, st.sampled_from((None, FinishReason.STOP, FinishReason.LENGTH)))
async def test_a_reply_comes_to_the_same_as_with_vllm(
    stops: list[str], steps: list[list[int]], end: FinishReason | None
) -> None:
    """Text, tokens, their number and whether the engine core has to be told: only sooner."""
    ours = Run(TokenOutputs(KIND, log_stats=True), stops)
    theirs = Run(OutputProcessor(KIND, log_stats=True), stops)
    for number, step in enumerate(steps):
        finish = end if number == len(steps) - 1 else None
        for each in (ours, theirs):
            each.step(step, finish)
            await each.read()
        assert "".join(ours.sent).startswith("".join(theirs.sent))
        assert ours.going == theirs.going
        if not ours.going:
            assert "".join(ours.sent) == "".join(theirs.sent)
            break
    assert (ours.token_ids, ours.count, ours.aborted) == (theirs.token_ids, theirs.count, theirs.aborted)


async def test_a_line_is_not_cut_in_mid_word_by_a_stop_string_that_is_far_off() -> None:
    run = Run(TokenOutputs(KIND, log_stats=True), ["<|end_of_the_turn_and_of_all|>"])
    for token_id in (0, 2, 4, 1):
        run.step([token_id], None)
        await run.read()
    assert run.sent == ["a", "ab", "", "<b"]


def test_a_request_without_stop_strings_keeps_vllm_s_detokenizer() -> None:
    processor = TokenOutputs(KIND, log_stats=True)
    Run(processor, [])
    assert not isinstance(processor.request_states["id"].detokenizer, StoppingDetokenizer)


@pytest.mark.parametrize(("stops", "expected"), [([], "abab<"), (["zz"], "abab<"), (["b<"], "aba")])
async def test_hidden_tokens_are_counted_and_are_no_text(stops: list[str], expected: str) -> None:
    run = Run(TokenOutputs(KIND, log_stats=True), stops, hidden=frozenset({6, 9}))
    for token_ids in ([2], [6, 2], [9], [4, 6]):
        run.step(token_ids, FinishReason.LENGTH if token_ids == [4, 6] else None)
        await run.read()
    assert "".join(run.sent) == expected
    assert run.token_ids[:4] == [2, 6, 2, 9]
