"""What `VllmEngine` sends to vLLM and makes of what comes back, without vLLM's processes."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from app.core.events import Content, Delta, Event, Thinking
from app.core.request import Constraint, Sampling
from app.engine.base import Prompt, Run
from app.engine.vllm.adapters import Adapters
from app.engine.vllm.engine import VllmEngine
from app.engine.vllm.stream.deltas import Deltas
from harness.models.catalogue import PERSON, case
from tests.unit.replying import Reader, reader

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


@dataclass
class Llm:
    """Answers each request with the next of `replies`, token by token."""

    reader: Reader
    replies: Sequence[str]
    sent: list[tuple[Any, Any, Mapping[str, Any]]] = field(
        default_factory=list[tuple[Any, Any, Mapping[str, Any]]]
    )
    aborted: list[str] = field(default_factory=list[str])
    output_processor: Any = field(default_factory=lambda: SimpleNamespace(tracing_enabled=False))

    async def submit(
        self, name: str, payload: Any, params: Any, convert: Callable[[Any], Delta], **arguments: Any
    ) -> Deltas:
        self.sent.append((payload, params, arguments))
        deltas = Deltas(name, convert)
        made = self.reader.deltas(self.replies[len(self.sent) - 1], self.reader.decoder(""))
        made[-1].output_tokens = len(made)
        for delta in made:
            deltas.add(delta)
        return deltas

    async def abort(self, request_id: str, *, internal: bool) -> None:
        self.aborted.append(request_id)


def engine(llm: Llm) -> VllmEngine:
    made = VllmEngine.__new__(VllmEngine)
    facts = SimpleNamespace(thinking_variable="enable_thinking", thinking=None)
    values = {
        "llm": llm,
        "model": SimpleNamespace(facts=facts, name="tool"),
        "parsers": llm.reader._parsers,  # pyright: ignore[reportPrivateUsage]
        "constrains": True,
        "adapters": Adapters(llm),  # type: ignore[arg-type]
        "windowed": False,
        "token_bytes": None,
        "ids": itertools.count(),
    }
    for name, value in values.items():
        setattr(made, f"_{name}", value)
    return made


async def read(made: VllmEngine, prompt: Prompt, run: Run) -> list[Event]:
    found: list[Event] = []
    async with made.answer(prompt, run) as answer:
        assert answer.decoder is not None
        finish = None
        while finish is None:
            delta = await answer.next()
            finish = delta.finish
            found += answer.decoder.feed(delta)
        return found + answer.decoder.flush()


@pytest.mark.parametrize(
    ("replies", "asked"),
    [(("<think>\nHm.\n</think>\n\n" + PERSON,), 1), (("<think>\nHm.\n", PERSON), 2), (("Hm.", PERSON), 2)],
    ids=["reasoning that ends", "reasoning that does not", "no tag at all"],
)
async def test_a_constrained_answer_comes_whatever_becomes_of_the_reasoning(
    replies: Sequence[str], asked: int
) -> None:
    known = reader("qwen3")
    text = known.transcript(case("qwen3", "json"), think=True).prompt
    prompt = Prompt(text, known.tokenizer.encode(text, add_special_tokens=False))
    llm = Llm(known, replies)
    run = Run(Sampling(seed=1), max_tokens=99, constraint=Constraint(grammar="start: /a/"), cache_salt="k")
    events = await read(engine(llm), prompt, run)
    assert "".join(each.text for each in events if isinstance(each, Thinking)) == "Hm."
    assert "".join(each.text for each in events if isinstance(each, Content)) == PERSON
    assert [arguments["reasoning_ended"] for *_, arguments in llm.sent] == [False, True][:asked]
    assert not llm.aborted
    payload, params, arguments = llm.sent[-1]
    assert payload["cache_salt"] == "k"
    assert params.structured_outputs.grammar == "start: /a/"
    assert known.tokenizer.eos_token_id in arguments["hidden"]
    if asked == 2:
        reasoned = known.tokenizer.encode(replies[0] + "</think>", add_special_tokens=False)
        assert list(payload["prompt_token_ids"]) == [*prompt.token_ids, *reasoned]
        assert params.max_tokens == 99 - len(reasoned)
